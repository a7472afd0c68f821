"""Short connections through the relay never run out of ports, whoever closes first."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from tests.kernel.answering import PORT, ask
from tests.kernel.namespaces import OUTSIDE_IP4, POD_IP4, POD_IP6, PodNetwork
from tests.kernel.test_node_relay import Play, Scene, app, play

__all__ = ["play"]

PORTS = (40000, 40099)
CONNECTIONS = 10 * (PORTS[1] - PORTS[0])
AT_A_TIME = 8


@contextlib.asynccontextmanager
async def closing_app(network: PodNetwork, host: str) -> AsyncIterator[None]:
    """An app that has the last word."""

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"app here there\n")
        writer.close()
        await writer.wait_closed()

    with contextlib.closing(network.pod.listen(host, PORT)) as listener:
        server = await asyncio.start_server(greet, sock=listener.dup())
        try:
            yield
        finally:
            server.close()


@pytest.mark.parametrize("host", [POD_IP4, POD_IP6])
@pytest.mark.parametrize("first", ["client", "app"])
def test_many_more_than_there_are_ports(play: Play, host: str, first: str) -> None:
    """A pod whose clients are many and whose ports are few."""

    async def scenario(scene: Scene) -> None:
        scene.stream = None
        pod = scene.network.pod
        pod.run("sysctl", "-qw", f"net.ipv4.ip_local_port_range={PORTS[0]} {PORTS[1]}")
        left = iter(range(CONNECTIONS))
        answers: list[str] = []

        async def worker() -> None:
            for _ in left:
                found = await ask(scene.network.outside, host)
                answers.append(found.who if found else "refused")

        async with app(scene.network, [host]) if first == "client" else closing_app(scene.network, host):
            await asyncio.gather(*(worker() for _ in range(AT_A_TIME)))
            await scene.relay.idle()
            assert answers == ["app"] * CONNECTIONS
            assert scene.relay.resets == {}
            # Nor are any taken from the pod's own clients: those of others are served from the same ports.
            if ":" not in host:
                with contextlib.closing(scene.network.outside.listen(OUTSIDE_IP4, PORT)):
                    for _ in range(20):
                        (await pod.connect(OUTSIDE_IP4, PORT)).close()

    play(scenario)
