"""TCP on both ends of a live tunnel: each end sees what it would see of the other without us."""

import asyncio
import hashlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager, suppress

import pytest

from tests.unit.tunnel.conftest import Run
from tests.unit.tunnel.joined import Recorder
from tests.unit.tunnel.live import REQUEST, Live, over_pipe, until
from tproxy.tunnel.bridge import bridge_socket
from tproxy.tunnel.conn import Conn
from tproxy.tunnel.outbox import HIGH_MARK

Maker = Callable[[], AbstractAsyncContextManager[Live]]
App = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def through(live: Live, app: App) -> AsyncIterator[int]:
    """An app on the laptop; the port at the node's end of the tunnel. Failures of the app are the test's."""
    failures: list[BaseException] = []
    running = 0

    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal running
        running += 1
        try:
            await app(reader, writer)
        except BaseException as error:
            failures.append(error)
            raise
        finally:
            running -= 1
            writer.close()

    server = await asyncio.start_server(guarded, "127.0.0.1", 0)
    live.app_port = server.sockets[0].getsockname()[1]
    async with server, live.relay() as port:
        yield port
        await until(lambda: not running)
    assert not failures, failures


async def idle(live: Live) -> None:
    """Every connection has ended on every side."""
    await until(lambda: not live.node.stats.connections and not live.laptop.stats.connections)
    for bridge in live.bridges:
        await asyncio.wait_for(bridge.done, 5)


def reset(writer: asyncio.StreamWriter) -> None:
    """Send RST."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say everything back, until the end or a reset."""
    with suppress(ConnectionResetError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


def test_a_client_that_finishes_first_still_gets_its_answer(run: Run, tunnel: Maker) -> None:
    async def sum_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.read()
        await asyncio.sleep(0.02)
        writer.write(b"got %d" % len(request))

    async def main() -> None:
        async with tunnel() as live, through(live, sum_up) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(bytes(100_000))
            writer.write_eof()
            assert await reader.read() == b"got 100000"
            writer.close()
            await idle(live)

    run(main())


def test_an_app_that_finishes_first_still_hears_its_client(run: Run, tunnel: Maker) -> None:
    heard: list[bytes] = []

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"last words")
        writer.write_eof()
        heard.append(await reader.read())

    async def main() -> None:
        async with tunnel() as live, through(live, greet) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await reader.read() == b"last words"
            writer.write(b"I am still here")
            await writer.drain()
            writer.close()
            await idle(live)
        assert heard == [b"I am still here"]

    run(main())


def test_a_reset_of_the_app_is_a_reset_for_the_client_after_what_it_said(run: Run, tunnel: Maker) -> None:
    async def slam(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(5)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        reset(writer)

    async def main() -> None:
        async with tunnel() as live, through(live, slam) as port:
            loop = asyncio.get_running_loop()
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.setblocking(False)
                await loop.sock_sendall(client, b"hello")
                assert await loop.sock_recv(client, 100) == b"HTTP/1.1 400 Bad Request\r\n\r\n"
                with pytest.raises(ConnectionResetError):
                    await loop.sock_recv(client, 100)
            await idle(live)

    run(main())


def test_a_reset_of_the_client_is_a_reset_for_the_app(run: Run, tunnel: Maker) -> None:
    seen: list[str] = []

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x")
        try:
            await reader.read()
        except ConnectionResetError:
            seen.append("reset")

    async def main() -> None:
        async with tunnel() as live, through(live, wait) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await reader.readexactly(1)
            reset(writer)
            await until(lambda: bool(seen))
            await idle(live)

    run(main())


def test_a_refused_connection_is_a_reset_at_once(run: Run, tunnel: Maker) -> None:
    async def main() -> None:
        async with tunnel() as live, live.relay() as port:
            with socket.create_server(("127.0.0.1", 0)) as gone:
                live.app_port = gone.getsockname()[1]
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            began = asyncio.get_running_loop().time()
            with pytest.raises(ConnectionResetError):
                await reader.read()
            assert asyncio.get_running_loop().time() - began < 0.5
            writer.close()
            assert isinstance(live.failures[0], ConnectionRefusedError)
            await idle(live)

    run(main())


@contextmanager
def busy_listener() -> Iterator[tuple[socket.socket, set[object]]]:
    """A listener whose queue is full: the kernel lets further clients wait, and they try again after a second.
    Also gives the addresses of those that fill it."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [stack.enter_context(socket.socket()) for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        listener.setblocking(False)
        yield listener, {filler.getsockname() for filler in fillers}


def test_what_the_client_says_before_the_app_answers_is_not_lost(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with over_pipe() as live, live.relay() as port:
            with busy_listener() as (listener, fillers):
                live.app_port = listener.getsockname()[1]
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"early" * 1000)
                writer.write_eof()
                await until(lambda: live.laptop.stats.bytes_in > 5000)
                got = b""
                while not got:
                    accepted, peer = await loop.sock_accept(listener)
                    with accepted:
                        while peer not in fillers and (data := await loop.sock_recv(accepted, 65536)):
                            got += data
                assert got == b"early" * 1000
                writer.close()

    run(main())


def test_a_client_that_leaves_while_the_app_is_connected_to_leaves_nothing(run: Run) -> None:
    async def main() -> None:
        async with over_pipe() as live, live.relay() as port:
            with busy_listener() as (listener, _):
                live.app_port = listener.getsockname()[1]
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                await until(lambda: live.laptop.stats.connections == 1)
                reset(writer)
                await idle(live)
                await until(lambda: not live.tasks._running)  # the connect was given up

    run(main())


def test_last_words_in_one_batch_with_the_reset_reach_the_client(run: Run, tunnel: Maker) -> None:
    def slam(conn: Conn) -> None:
        conn.sink = Recorder()
        conn.accept()
        conn.write(b"go away")
        conn.reset()

    async def main() -> None:
        async with tunnel() as live, live.relay() as port:
            live.laptop.on_open = slam
            loop = asyncio.get_running_loop()
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.setblocking(False)
                assert await loop.sock_recv(client, 100) == b"go away"
                with pytest.raises(ConnectionResetError):
                    await loop.sock_recv(client, 100)

    run(main())


def test_the_opener_hears_when_the_app_has_answered(run: Run, tunnel: Maker) -> None:
    async def main() -> None:
        async with tunnel() as live, through(live, echo):
            sink = Recorder()
            sink.conn = live.node.open(REQUEST, sink)
            await until(lambda: sink.events == ["opened"])
            sink.conn.write_eof()
            await until(lambda: sink.events == ["opened", "eof"])

    run(main())


def test_bulk_both_ways_at_once_arrives_unchanged(run: Run, tunnel: Maker) -> None:
    block = os.urandom(1_000_000)
    count = 20

    async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        digest = hashlib.sha256()

        async def receive() -> None:
            while data := await reader.read(262_144):
                digest.update(data)

        async def send() -> None:
            for _ in range(count):
                writer.write(block)
                await writer.drain()
            writer.write_eof()

        await asyncio.gather(receive(), send())
        return digest.hexdigest()

    async def main() -> None:
        at_app: list[str] = []

        async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            at_app.append(await exchange(reader, writer))

        expected = hashlib.sha256(block * count).hexdigest()
        async with tunnel() as live, through(live, app) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await exchange(reader, writer) == expected
            writer.close()
            await idle(live)
        assert at_app == [expected]

    run(main())


def test_a_client_that_pauses_gets_everything_when_it_goes_on(run: Run, tunnel: Maker) -> None:
    size = 24_000_000

    async def pour(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(size // 100_000):
            writer.write(bytes(100_000))
            await writer.drain()

    async def main() -> None:
        async with tunnel() as live, through(live, pour) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
            await until(lambda: live.laptop.stats.queued > 0)  # nothing moves any more
            left = size
            while data := await reader.read(1_000_000):
                left -= len(data)
            assert left == 0
            writer.close()
            await idle(live)

    run(main())


def test_a_client_that_stops_reading_stops_the_app_and_nobody_else(run: Run, tunnel: Maker) -> None:
    written = 0

    async def flood_or_echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        if await reader.readexactly(1) == b"e":
            return await echo(reader, writer)
        while not reader.at_eof():
            writer.write(bytes(65536))
            written += 65536
            try:
                await writer.drain()
            except ConnectionResetError:
                return None
        return None

    async def main() -> None:
        async with tunnel() as live, through(live, flood_or_echo) as port:
            loop = asyncio.get_running_loop()
            _, stalled = await asyncio.open_connection("127.0.0.1", port, limit=1024)
            stalled.write(b"f")
            before = -1
            while before != written:  # until the app cannot write any more
                before = written
                await asyncio.sleep(0.1)
            # Everything on the way is in the kernel's buffers, in the window, or in the queues of bounded size.
            held = live.laptop.stats.queued
            assert held < HIGH_MARK + 512 * 1024
            reader, lively = await asyncio.open_connection("127.0.0.1", port)
            lively.write(b"e")
            began = loop.time()
            for _ in range(20):
                lively.write(bytes(65536))
                await reader.readexactly(65536)
            assert (loop.time() - began) / 20 < 0.1
            assert written == before
            lively.close()
            reset(stalled)
            await idle(live)

    run(main())


def test_a_lost_tunnel_is_a_reset_for_client_and_app(run: Run, tunnel: Maker) -> None:
    seen: list[str] = []

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x")
        try:
            await reader.read()
        except ConnectionResetError:
            seen.append("reset")

    async def main() -> None:
        async with tunnel() as live, through(live, wait) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await reader.readexactly(1)
            live.laptop.close("enough")
            with pytest.raises(ConnectionResetError):
                await reader.read()
            writer.close()
            await until(lambda: bool(seen))
            await asyncio.wait_for(live.node.wait_closed(), 5)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)  # and so is whoever comes later
            with pytest.raises(ConnectionResetError):
                await reader.read()
            writer.close()

    run(main())


def test_many_short_connections_leave_nothing_behind(run: Run, tunnel: Maker) -> None:
    async def main() -> None:
        async with tunnel() as live, through(live, echo) as port:

            async def one(number: int) -> None:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"%d" % number)
                writer.write_eof()
                assert await reader.read() == b"%d" % number
                writer.close()

            for start in range(0, 150, 30):
                await asyncio.gather(*(one(number) for number in range(start, start + 30)))
            await idle(live)

    run(main())


def test_an_accepted_socket_is_bridged(run: Run) -> None:
    async def main() -> None:
        async with over_pipe() as live, through(live, echo):
            loop = asyncio.get_running_loop()
            with socket.create_server(("127.0.0.1", 0)) as listener:
                listener.setblocking(False)
                reader, writer = await asyncio.open_connection(*listener.getsockname())
                accepted, _ = await loop.sock_accept(listener)
                bridge = await bridge_socket(live.node, REQUEST, accepted)
                writer.write(b"hello")
                assert await reader.readexactly(5) == b"hello"
                bridge.abort()
                with pytest.raises(ConnectionResetError):
                    await reader.read()
                writer.close()
                await idle(live)

    run(main())
