"""A relay for one pod in this process, an app, and local apps behind a tunnel: what HTTP on the node is tested with."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import uvloop
from tproxy_node.desired import Route
from tproxy_node.plan import PodRef
from tproxy_node.relay import Limits, PodRelay, Relay

from tests.kernel.answering import PORT
from tests.kernel.namespaces import POD_IP4, PodNetwork, until
from tests.unit.node.streams import tunnel
from tproxy.model.figures import Outcome
from tproxy.model.flow import ResetReason
from tproxy.steer.port import Steering
from tproxy.tunnel.conn import Buffer, Conn
from tproxy.tunnel.endpoint import Endpoint

PLAIN = b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n"


def page(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


class Site:
    """A local app behind the tunnel: says which intercept a connection is for, and its how-manieth request this is."""

    def __init__(self, conn: Conn) -> None:
        self._conn = conn
        self._requests = 0
        conn.sink = self
        conn.accept()

    def conn_opened(self) -> None: ...
    def conn_pause(self) -> None: ...
    def conn_resume(self) -> None: ...
    def conn_reset(self, reason: ResetReason, detail: str) -> None: ...

    def conn_data(self, data: Buffer) -> None:
        self._conn.consumed(len(data))
        for request in bytes(data).split(b"\r\n\r\n")[:-1]:
            self._requests += 1
            if b"/stream" in request:
                self._conn.write(b"HTTP/1.1 200 OK\r\n\r\nbegun")
            else:
                self._conn.write(page(b"%s %d" % (self._conn.request.intercept.encode(), self._requests)))

    def conn_eof(self) -> None:
        self._conn.write_eof()


class Scene:
    """A relay for one pod, whose port two people share, and one stream for both."""

    def __init__(self, network: PodNetwork, steering: Steering, limits: Limits, route: Route) -> None:
        self.network = network
        self.stream: Endpoint | None
        self.stream, self.laptop = tunnel()
        self.laptop.on_open = Site
        self.relay = Relay(lambda _: self.stream if self.stream and self.stream.alive else None, limits)
        attachment = steering.attach(network.pod.netns, ())
        self.pod = PodRelay(self.relay, PodRef("shop", "web-1", "uid-1"), attachment, {PORT: route})

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator["Client"]:
        sock = await self.network.outside.connect(POD_IP4, PORT)
        client = Client(*await asyncio.open_connection(sock=sock))
        try:
            yield client
        finally:
            client.writer.transport.abort()

    @contextlib.asynccontextmanager
    async def app(self) -> AsyncIterator[None]:
        """The app: counts the requests of a connection."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            number = 0
            with contextlib.suppress(EOFError, ConnectionError):
                while True:
                    await reader.readuntil(b"\r\n\r\n")
                    number += 1
                    writer.write(page(b"app %d" % number))
            writer.close()

        listener = self.network.pod.listen(POD_IP4, PORT)
        server = await asyncio.start_server(serve, sock=listener)
        try:
            yield
        finally:
            server.close()

    def outcomes(self, intercept: str) -> dict[Outcome, int]:
        """How many requests of an intercept ended how."""
        requests = self.relay.tally.requests(intercept)
        return {outcome: timed.count for outcome, timed in requests.timed.items() if timed.count}


class Client:
    """A connection to the pod."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, request: bytes) -> str:
        """The body of the answer; an error's first word."""
        self.writer.write(request)
        head = await self.reader.readuntil(b"\r\n\r\n")
        size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return (await self.reader.readexactly(size)).decode()


Scenario = Callable[[Scene], Awaitable[None]]
Play = Callable[..., None]


def player(network: PodNetwork, steering: Steering, shared: Route) -> Play:
    """Runs a scenario on the event loop that the daemon uses."""

    def run(scenario: Scenario, limits: Limits | None = None, route: Route = shared) -> None:
        async def whole() -> None:
            scene = Scene(network, steering, limits or Limits(), route)
            try:
                async with asyncio.timeout(20):
                    await scene.pod.serve()
                    await scenario(scene)
                    scene.pod.abandon()
                    await until(lambda: not scene.relay.flows.live)
            finally:
                scene.pod.abandon()
                scene.laptop.close()
                await scene.relay.close()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(whole())

    return run
