"""The node daemon's direct door: it listens by TLS, and says where on its own pod until that is heard."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, cast

import pytest
from tproxy_node import direct
from tproxy_node.direct import DirectDoor
from tproxy_node.opening import Identity
from tproxy_node.options import Direct, Listen, PodName

from tproxy.errors import DeniedError
from tproxy.kube.port import PODS, Cluster, Resource
from tproxy.model.direct import DirectWay
from tproxy.rpc.reach import reach
from tproxy.rpc.server import TunnelServer
from tproxy.tunnel.hello import Hello


class _Api:
    """Refuses the first patches."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals
        self.patched: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()

    async def patch(
        self, resource: Resource, name: str, body: Mapping[str, Any], namespace: str = "", subresource: str = ""
    ) -> None:
        if self.refusals:
            self.refusals -= 1
            raise DeniedError("you may not patch pods/status")
        self.patched.put_nowait((resource, namespace, name, subresource, body))


async def _nobody(hello: Hello) -> Identity:
    raise DeniedError("nobody")


@pytest.mark.parametrize("port", [0, 443])
def test_it_says_where_it_is(port: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "FIRST_DELAY_SECONDS", 0.01)
    caplog.set_level(logging.INFO)

    async def main() -> None:
        api = _Api(refusals=2)
        server = TunnelServer[Identity]("node1", _nobody, lambda _identity, _endpoint: None)
        pod = PodName("tproxy-system", "tproxy-node-x")
        door = DirectDoor(server, Direct(Listen("127.0.0.1", 0), "127.0.0.1", port, pod))
        await door.start(cast(Cluster, api))
        resource, namespace, name, subresource, body = await asyncio.wait_for(api.patched.get(), 5)
        assert (resource, namespace, name, subresource) == (PODS, "tproxy-system", "tproxy-node-x", "status")
        way = DirectWay.from_annotations(body["metadata"]["annotations"])
        assert way is not None
        if port:
            assert str(way) == "127.0.0.1:443"
        else:
            await reach(way, "node1")
        await door.close()
        await server.stop()

    asyncio.run(main())
    said = [record.message for record in caplog.records if record.name == "tproxy_node.direct"]
    assert said == ["cannot publish the direct address: you may not patch pods/status"] * 2 + [
        "direct address published"
    ]
