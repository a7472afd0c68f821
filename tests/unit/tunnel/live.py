"""Live tunnels for tests: two endpoints in one loop, joined by a pipe or by gRPC over the loopback, and a relay."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

from tproxy.errors import DeniedError
from tproxy.model.flow import Address, FlowKind, OpenRequest
from tproxy.rpc import client, library
from tproxy.rpc.server import TunnelServer
from tproxy.tasks import Tasks
from tproxy.tunnel.bridge import Bridge, connect_bridge
from tproxy.tunnel.conn import Conn
from tproxy.tunnel.endpoint import Endpoint, StreamLostError
from tproxy.tunnel.hello import Hello

TOKEN = b"t" * 32
REQUEST = OpenRequest(FlowKind.INBOUND, Address("10.1.2.3", 8080))


class Pipe:
    """One end of a stream inside the process, a batch of room each way. `held` stops its writes."""

    def __init__(self) -> None:
        self.other: Pipe = self
        self.held = asyncio.Event()
        self.held.set()
        self.sent: list[bytes] = []
        self._incoming: asyncio.Queue[bytes | None] = asyncio.Queue(1)
        self._over = False

    @classmethod
    def pair(cls) -> "tuple[Pipe, Pipe]":
        """Both ends."""
        one, other = cls(), cls()
        one.other, other.other = other, one
        return one, other

    async def each(self, receive: Callable[[bytes], None]) -> None:
        while (batch := await self._incoming.get()) is not None:
            receive(batch)

    async def write(self, batch: bytes) -> None:
        await self.held.wait()
        if self._over:
            raise StreamLostError("the pipe is closed")
        self.sent.append(batch)
        await self.other._incoming.put(batch)

    def abort(self, reason: str) -> None:
        for end in (self, self.other):
            if not end._over:
                end._over = True
                if end._incoming.full():
                    end._incoming.get_nowait()
                end._incoming.put_nowait(None)


@dataclass
class Live:
    """A tunnel that stands. Connections the node opens go to `app_port` on the laptop."""

    node: Endpoint
    laptop: Endpoint
    app_port: int = 0
    failures: list[OSError] = field(default_factory=list)
    bridges: list[Bridge] = field(default_factory=list)
    tasks: Tasks = field(default_factory=lambda: Tasks("test"))

    def serve(self, conn: Conn) -> None:
        """What the laptop does with a connection."""
        addresses = [("127.0.0.1", self.app_port)]
        self.bridges.append(connect_bridge(conn, addresses, self.tasks, self.failures.append))

    @asynccontextmanager
    async def relay(self) -> AsyncIterator[int]:
        """A listening port whose connections the node opens through the tunnel."""
        loop = asyncio.get_running_loop()
        listener = await loop.create_server(lambda: _Accepting(self), "127.0.0.1", 0)
        async with listener:
            yield int(listener.sockets[0].getsockname()[1])


class _Accepting(Bridge):
    def __init__(self, live: Live) -> None:
        super().__init__()
        self._live = live

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.join(self._live.node.open(REQUEST, self))
        self._live.bridges.append(self)
        super().connection_made(transport)


@asynccontextmanager
async def over_pipe() -> AsyncIterator[Live]:
    """A tunnel without a network."""
    one, other = Pipe.pair()
    node, laptop = Endpoint(one, laptop=False), Endpoint(other, laptop=True)
    live = Live(node, laptop)
    laptop.on_open = live.serve
    try:
        yield live
    finally:
        node.close()
        laptop.close()
        await live.tasks.close()


async def authenticate(hello: Hello) -> str:
    """Knows one session."""
    if hello.token != TOKEN:
        raise DeniedError("the session's token is wrong")
    return hello.session


@asynccontextmanager
async def serving(
    on_endpoint: Callable[[str, Endpoint], None], hello_seconds: float = 5.0
) -> "AsyncIterator[tuple[TunnelServer[str], int]]":
    """A server on the loopback, and its port."""
    server = TunnelServer("node1", authenticate, on_endpoint, hello_seconds)
    port = await server.start("127.0.0.1", 0)
    try:
        yield server, port
    finally:
        await server.stop()


@asynccontextmanager
async def over_grpc(opening: client.Opening = client.open_stream) -> AsyncIterator[Live]:
    """A tunnel over real gRPC."""
    arrived: asyncio.Queue[Endpoint] = asyncio.Queue()
    async with serving(lambda _identity, endpoint: arrived.put_nowait(endpoint)) as (_, port):
        waiting: list[Live] = []
        laptop = await client.connect(
            f"127.0.0.1:{port}", Hello("shop", "alice", TOKEN), lambda conn: waiting[0].serve(conn), opening=opening
        )
        live = Live(await arrived.get(), laptop)
        waiting.append(live)
        try:
            yield live
        finally:
            laptop.close()
            await live.tasks.close()


def over_library() -> AbstractAsyncContextManager[Live]:
    """The same with gRPC's library on the laptop."""
    return over_grpc(library.open_stream)


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait for a condition, looking at every turn of the loop."""
    async with asyncio.timeout(seconds):
        while True:
            if condition():
                return
            await asyncio.sleep(0.002)
