"""Client and app through a splice behave as if they were connected to each other. Real sockets, on loopback."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import uvloop

from tproxy.tasks import Tasks
from tproxy.tunnel.splice import Splice

MEGABYTE = b"x" * (1 << 20)


class Scene:
    """A listener whose connections are spliced with connections to `app`."""

    def __init__(self) -> None:
        self.app = socket.create_server(("127.0.0.1", 0))
        self.app.setblocking(False)
        self.splices: list[Splice] = []
        self.accepted = asyncio.Event()
        self.held = asyncio.Event()  # nothing is connected to the app before it is set
        self.held.set()
        self._tasks = Tasks("test")

    async def _connect(self, splice: Splice) -> None:
        await self.held.wait()
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().create_connection(lambda: splice.app, *self.app.getsockname())

    def accept(self) -> asyncio.Protocol:
        splice = Splice()
        self.splices.append(splice)
        self.accepted.set()
        self._tasks.start(self._connect(splice), "connect")
        return splice.client

    async def connect(self, port: int) -> socket.socket:
        client = socket.socket()
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
        return client


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[tuple[Scene, socket.socket, socket.socket]]:
    """The scene, the client's socket and the app's."""
    loop = asyncio.get_running_loop()
    scene = Scene()
    server = await loop.create_server(scene.accept, "127.0.0.1", 0)
    client = await scene.connect(server.sockets[0].getsockname()[1])
    app, _ = await loop.sock_accept(scene.app)
    try:
        yield scene, client, app
    finally:
        for sock in (client, app, scene.app):
            sock.close()
        async with asyncio.timeout(5):
            for splice in scene.splices:
                await splice.over
        server.close()


def play(scenario: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(20):
            await scenario()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(limited())


async def receive_all(sock: socket.socket) -> bytes:
    parts = []
    while part := await asyncio.get_running_loop().sock_recv(sock, 1 << 16):
        parts.append(part)
    return b"".join(parts)


def test_bytes_and_half_close_pass_both_ways() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with connected() as (_, client, app):
            await loop.sock_sendall(client, b"question")
            client.shutdown(socket.SHUT_WR)
            assert await receive_all(app) == b"question"
            sending = asyncio.gather(loop.sock_sendall(app, MEGABYTE * 8))
            assert await loop.sock_recv(client, 1) == b"x"
            rest = asyncio.gather(receive_all(client))
            await sending
            app.shutdown(socket.SHUT_WR)
            assert len((await rest)[0]) == (8 << 20) - 1

    play(scenario)


def test_the_app_may_finish_first() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with connected() as (_, client, app):
            await loop.sock_sendall(app, b"greeting")
            app.shutdown(socket.SHUT_WR)
            assert await receive_all(client) == b"greeting"
            await loop.sock_sendall(client, b"still here")
            client.shutdown(socket.SHUT_WR)
            assert await receive_all(app) == b"still here"

    play(scenario)


def _reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()


async def _sees_reset(sock: socket.socket) -> bool:
    try:
        await asyncio.get_running_loop().sock_recv(sock, 1)
    except ConnectionResetError:
        return True
    return False


def test_resets_pass_both_ways() -> None:
    async def scenario() -> None:
        async with connected() as (_, client, app):
            _reset(app)
            assert await _sees_reset(client)
        async with connected() as (_, client, app):
            _reset(client)
            assert await _sees_reset(app)

    play(scenario)


def test_a_reset_after_half_close_is_one_too() -> None:
    async def scenario() -> None:
        async with connected() as (_, client, app):
            client.shutdown(socket.SHUT_WR)
            assert await receive_all(app) == b""
            _reset(app)
            assert await _sees_reset(client)

    play(scenario)


def test_a_stalled_reader_stops_the_writer() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with connected() as (_, client, app):
            sent = 0
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    while True:
                        await loop.sock_sendall(client, MEGABYTE)
                        sent += len(MEGABYTE)
            assert sent < 64 << 20, "what nobody reads must stay with the sender"
            reading = asyncio.gather(receive_all(app))
            await asyncio.sleep(0)
            client.shutdown(socket.SHUT_WR)
            assert len((await reading)[0]) >= sent

    play(scenario)


def test_what_comes_before_the_app_is_connected_is_kept_and_bounded() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        scene = Scene()
        scene.held.clear()
        server = await loop.create_server(scene.accept, "127.0.0.1", 0)
        client = await scene.connect(server.sockets[0].getsockname()[1])
        early = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                while True:
                    await loop.sock_sendall(client, b"y" * 4096)
                    early += 4096
        scene.held.set()
        app, _ = await loop.sock_accept(scene.app)
        reading = asyncio.gather(receive_all(app))
        client.shutdown(socket.SHUT_WR)
        assert len((await reading)[0]) >= early
        assert early < 32 << 20
        for sock in (client, app, scene.app):
            sock.close()
        await scene.splices[0].over
        server.close()

    play(scenario)


def test_a_client_that_leaves_before_the_app_answers_ends_it() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        scene = Scene()
        scene.held.clear()
        server = await loop.create_server(scene.accept, "127.0.0.1", 0)
        client = await scene.connect(server.sockets[0].getsockname()[1])
        _reset(client)
        async with asyncio.timeout(2):
            await scene.accepted.wait()
            await scene.splices[0].over
        scene.app.close()
        server.close()

    play(scenario)
