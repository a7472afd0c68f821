"""The daemon's gRPC port: only for who is in its pod and has the token; all others are refused and named once."""

import asyncio
import contextlib
import json
import os
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.kernel.namespaces import Namespace
from tests.lab.asking import connection
from tests.lab.laptop import network
from tests.lab.scene import Scene
from tproxy.kube.port import SESSIONS
from tproxy.rpc.calls import METHOD
from tproxy.rpc.v1.tunnel_pb2 import Batch, Frame, Hello, Open
from tproxy.tasks import Tasks

PORT = 4770
CHANNEL = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]


class Door:
    """One node daemon's gRPC port, from inside its pod, while a laptop has a tunnel to it."""

    def __init__(self, scene: Scene, inside: Namespace, pod: Any) -> None:
        self.scene, self.inside, self.pod = scene, inside, pod
        self.session = scene.lab.client.list(SESSIONS, scene.namespace)[0]["metadata"]["name"]

    def refusals(self) -> list[str]:
        """The reasons of refused tunnels in the daemon's log."""
        log = self.scene.lab.run("logs", f"{self.pod['namespace']}/{self.pod['name']}").stdout
        lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
        return [line["reason"] for line in lines if line["message"] == "tunnel refused"]

    def refused(self) -> float:
        """How many streams were refused so far."""
        return self.scene.metric(self.pod["node"], "tproxy_tunnels_refused_total")

    def opened(self) -> tuple[float, ...]:
        """What would change if anything had been opened."""
        names = (
            "tproxy_tunnels",
            'tproxy_connections_active{place="laptop"}',
            'tproxy_connections_active{place="app"}',
        )
        return tuple(self.scene.metric(self.pod["node"], name) for name in names)

    async def say(self, *batches: bytes) -> grpc.StatusCode:
        """Open a stream, say this, wait for the end; how it was ended."""
        async with relayed(self.inside) as address, grpc.aio.insecure_channel(address, CHANNEL) as channel:
            stream = channel.stream_stream(METHOD)()
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                for batch in batches:
                    await stream.write(batch)
            async with asyncio.timeout(15):
                return await stream.code()


@contextlib.asynccontextmanager
async def relayed(inside: Namespace) -> Any:
    """A unix socket here that leads to the port there: gRPC's client makes its sockets itself."""
    path = f"/tmp/tproxy-door-{os.getpid()}-{secrets.token_hex(4)}"  # noqa: S108
    tasks = Tasks("door")

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
        except ConnectionError:
            writer.transport.abort()
        finally:
            writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(sock=await inside.connect("127.0.0.1", PORT))
        tasks.start(pump(reader, there[1]), "in")
        tasks.start(pump(there[0], writer), "out")

    server = await asyncio.start_unix_server(accept, path)
    try:
        yield f"unix:{path}"
    finally:
        server.close()
        # gRPC keeps its end for a minute.
        await tasks.close()
        os.unlink(path)


@pytest.fixture(scope="module")
def door(scene: Scene) -> Iterator[Door]:
    """The door of node1."""
    pod = next(one for one in scene.lab.pods("tproxy-system") if one["node"] == "node1")
    inside = network(pod["netns"])
    try:
        with scene.intercepted():
            yield Door(scene, inside, pod)
    finally:
        inside.netns.close()


def hello(door: Door, **changes: Any) -> bytes:
    fields = {"version": 1, "min_version": 1, "namespace": door.scene.namespace, "session": door.session}
    return Batch(frames=[Frame(hello=Hello(**(fields | {"token": b"x" * 32} | changes)))]).SerializeToString()


DIAL = Batch(frames=[Frame(conn=1, open=Open(kind=Open.KIND_DIAL))]).SerializeToString()

WRONG: dict[str, Callable[[Door], tuple[bytes, ...]]] = {
    "wrong token": lambda door: (hello(door),),
    "no token": lambda door: (hello(door, token=b""),),
    "no such session": lambda door: (hello(door, session="nobody"),),
    "wrong version": lambda door: (hello(door, version=9, min_version=9),),
    "no hello first": lambda door: (DIAL, hello(door)),
    "garbage": lambda door: (secrets.token_bytes(512),),
    "half a hello": lambda door: (hello(door)[:20],),
    "silence": lambda door: (),
}


NO_GRPC = [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", secrets.token_bytes(4096), b"PRI * HT", b""]
TRIES = 3


def test_whoever_is_wrong_is_refused_and_logged_once(door: Door) -> None:
    async def everybody() -> list[set[grpc.StatusCode]]:
        async def repeatedly(batches: tuple[bytes, ...]) -> set[grpc.StatusCode]:
            return set(await asyncio.gather(*(door.say(*batches) for _ in range(TRIES))))

        return await asyncio.gather(*(repeatedly(say(door)) for say in WRONG.values()))

    known, refused, opened = len(door.refusals()), door.refused(), door.opened()
    codes = dict(zip(WRONG, asyncio.run(everybody()), strict=True))
    expected = {wrong: {grpc.StatusCode.UNAUTHENTICATED} for wrong in WRONG}
    assert codes == expected | {"wrong version": {grpc.StatusCode.FAILED_PRECONDITION}}
    assert door.refused() == refused + TRIES * len(WRONG)
    reasons = door.refusals()[known:]
    print(f"refused {TRIES * len(WRONG)} times, logged: {reasons}")
    assert len(reasons) == len(set(reasons)) >= 5, "each reason once"
    assert door.opened() == opened
    assert door.scene.seen() == "laptop", "others are not disturbed"


def test_what_is_no_grpc_is_hung_up_on(door: Door) -> None:
    async def until_closed(spoken: bytes) -> None:
        async with connection(door.inside, "127.0.0.1", PORT) as (reader, writer):
            writer.write(spoken)
            with contextlib.suppress(ConnectionResetError):
                await reader.read()

    async def everybody() -> None:
        async with asyncio.timeout(10):
            await asyncio.gather(*(until_closed(spoken) for spoken in NO_GRPC))

    opened = door.opened()
    asyncio.run(everybody())
    assert door.opened() == opened
    assert door.scene.seen() == "laptop"


@pytest.mark.parametrize("family", [0, 1])
def test_from_outside_its_pod_there_is_no_door(scene: Scene, family: int) -> None:
    web, daemon = scene.pods()[0], next(one for one in scene.lab.pods("tproxy-system") if one["node"] == "node1")
    address = daemon["addresses"][family]
    url = f"http://[{address}]" if family else f"http://{address}"
    for place in ("user", "node/1", "node/2", f"pod/{scene.namespace}/{web['name']}"):
        closed = scene.lab.exec(place, "curl", "-sg", "--max-time", "3", f"{url}:{PORT}/", check=False)
        assert closed.returncode == 7, f"{place}: {closed.stdout}"
        health = scene.lab.exec(place, "curl", "-sg", "--max-time", "3", f"{url}:4771/healthz")
        assert health.stdout == "ok\n", "there is a daemon at this address"
