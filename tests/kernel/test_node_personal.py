"""Ports with personal intercepts against the real kernel, in this process: the app, laptops, limits and leaving."""

import asyncio
import contextlib
import socket

import pytest
from tproxy_node.desired import Route
from tproxy_node.personal import ports
from tproxy_node.relay import Limits

from tests.kernel.answering import PORT
from tests.kernel.namespaces import POD_IP4, PodNetwork, until
from tests.kernel.sharing import PLAIN, Play, Scene, Site, page, player
from tproxy.http.h2 import frames as f
from tproxy.http.h2.blocks import encode
from tproxy.http.port import Choice
from tproxy.model.figures import Outcome
from tproxy.model.match import HeaderMatch, Match
from tproxy.steer.port import Steering
from tproxy.tunnel.conn import Buffer, Conn

ADA = (Match((HeaderMatch("x-user", "ada"),)), Choice("uid-ada", "session-ada", "shop/web-ada", "adas"))
EVE = (Match((HeaderMatch("x-user", "eve"),)), Choice("uid-eve", "session-eve", "shop/web-eve", "eves"))
SHARED = Route(personal=(ADA, EVE), drain_seconds=1)
ADAS = b"GET / HTTP/1.1\r\nHost: shop\r\nx-user: ada\r\n\r\n"
STREAM = ADAS.replace(b"GET /", b"GET /stream")
CHECK = PLAIN.replace(b"\r\n\r\n", b"\r\nUser-Agent: kube-probe/1.34\r\n\r\n")


@pytest.fixture
def play(network: PodNetwork, steering: Steering) -> Play:
    return player(network, steering, SHARED)


def test_one_connection_for_everybody(play: Play) -> None:
    """Its requests go apart, and come over connections that are kept."""

    async def scenario(scene: Scene) -> None:
        async with scene.app(), scene.client() as client:
            asked = (PLAIN, ADAS, PLAIN, ADAS.replace(b"ada", b"eve"), ADAS)
            answers = [await client.ask(each) for each in asked]
            assert answers == ["app 1", "uid-ada 1", "app 2", "uid-eve 1", "uid-ada 2"]
            assert scene.outcomes("uid-ada") == {Outcome.MATCHED: 2}
            assert scene.outcomes("uid-eve") == {Outcome.MATCHED: 1}
            assert scene.relay.tally.requests("uid-ada").passed == 2
        await until(lambda: not scene.relay.active["app"])
        await until(lambda: not scene.relay.active["laptop"])  # idle ones end, too

    play(scenario)


def test_the_app_is_down(play: Play) -> None:
    """Matching requests are served all the same; others get what they would get without us."""

    async def scenario(scene: Scene) -> None:
        async with scene.client() as client:
            assert await client.ask(ADAS) == "uid-ada 1"
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await client.ask(PLAIN)
        refused = scene.relay.resets["app"]
        async with scene.client() as client:
            assert await client.ask(ADAS) == "uid-ada 2"
            await until(lambda: scene.relay.resets["app"] > refused)
            async with scene.app():  # it is up again
                assert await client.ask(PLAIN) == "app 1"

    play(scenario)


def test_the_laptop_goes_while_a_request_is_with_it(play: Play) -> None:
    async def scenario(scene: Scene) -> None:
        silent: list[Conn] = []
        scene.laptop.on_open = silent.append
        async with scene.app(), scene.client() as safe, scene.client() as unsafe:
            safe.writer.write(ADAS)
            unsafe.writer.write(ADAS.replace(b"GET", b"POST").replace(b"\r\n\r\n", b"\r\nContent-Length: 0\r\n\r\n"))
            await until(lambda: len(silent) == 2)
            scene.laptop.close()
            assert await safe.ask(b"") == "app 1"
            assert "the laptop is not connected" in await unsafe.ask(b"")
            assert await unsafe.ask(PLAIN) == "app 1"
            assert await unsafe.ask(ADAS) == "app 2"  # as long as its routes are not gone

    play(scenario)


def test_a_laptop_with_too_many_connections(play: Play) -> None:
    """Its requests are the app's then."""

    async def scenario(scene: Scene) -> None:
        async with scene.app(), scene.client() as first, scene.client() as second:
            first.writer.write(STREAM)
            assert b"begun" in await first.reader.readuntil(b"begun")
            assert await second.ask(ADAS) == "app 1"
            assert scene.outcomes("uid-ada") == {Outcome.FALLBACK: 1}

    play(scenario, Limits(per_session=1))


def test_leaving(play: Play) -> None:
    """What is with the laptop may end within the time to drain; nothing else is disturbed."""

    async def scenario(scene: Scene) -> None:
        async with scene.app(), scene.client() as client, scene.client() as streaming:
            assert await client.ask(ADAS) == "uid-ada 1"
            streaming.writer.write(STREAM)
            await streaming.reader.readuntil(b"begun")
            began = asyncio.get_running_loop().time()
            scene.pod.set_routes({PORT: Route(personal=(EVE,))})
            assert await client.ask(ADAS) == "app 1"
            with pytest.raises(ConnectionResetError):
                await streaming.reader.read()
            assert 0.9 < asyncio.get_running_loop().time() - began < 5
            scene.pod.stop()
            assert await client.ask(ADAS) == "app 2"

    play(scenario)


def test_leaving_cuts_no_answer_short(play: Play) -> None:
    """HTTP/2: whoever reads slowly, and says so frame by frame, gets to the end of the last answer."""
    body = [bytes(10_000)] * 10

    async def frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
        head = await reader.readexactly(9)
        return head[3], await reader.readexactly(int.from_bytes(head[:3], "big"))

    async def scenario(scene: Scene) -> None:
        leave, closed = asyncio.Event(), asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly(len(f.PREFACE))
            writer.write(f.settings({}))
            while (await frame(reader))[0] != f.HEADERS:
                pass
            writer.write(f.headers(1, encode([(b":status", b"200", False)]), False))
            await leave.wait()
            writer.write(b"".join(f.frame(f.DATA, 0, 1, part) for part in body) + f.frame(f.DATA, f.END_STREAM, 1))
            while await reader.read(1 << 16):
                pass
            writer.close()
            closed.set()

        listener = scene.network.pod.listen(POD_IP4, PORT)
        async with await asyncio.start_server(serve, sock=listener), scene.client() as client:
            client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            asked = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"shop")]
            client.writer.write(f.PREFACE + f.settings({f.INITIAL_WINDOW_SIZE: 1 << 20}) + f.window_update(0, 1 << 20))
            client.writer.write(f.headers(1, encode((name, value, False) for name, value in asked), True))
            while (await frame(client.reader))[0] != f.HEADERS:
                pass
            scene.pod.set_routes({})
            while (said := await frame(client.reader))[0] != f.PING:
                pass
            client.writer.write(f.frame(f.PING, f.ACK, 0, said[1]))
            while (await frame(client.reader))[0] != f.GOAWAY:
                pass
            client.writer.transport.pause_reading()
            leave.set()
            await closed.wait()  # nothing is left to be done, but for the client to see it
            client.writer.write(f.window_update(0, 1))
            client.writer.transport.resume_reading()
            got = 0
            while got < sum(map(len, body)):
                kind, payload = await frame(client.reader)
                assert kind == f.DATA
                got += len(payload)
                client.writer.write(f.window_update(0, len(payload)))

    play(scenario)


def test_behind_them_a_global_intercept(play: Play) -> None:
    """It gets what is nobody's, whether HTTP or not, but no health checks."""

    async def scenario(scene: Scene) -> None:
        async with scene.app(), scene.client() as client:
            assert await client.ask(PLAIN) == "uid-all 1"
            assert await client.ask(ADAS) == "uid-ada 1"
            assert await client.ask(CHECK) == "app 1"
            assert await client.ask(PLAIN) == "uid-all 2"

    play(scenario, route=Route("uid-all", "session-all", "shop/web-all", personal=(ADA,)))


def test_slow_readers_cost_their_own_window(play: Play) -> None:
    """A laptop that says more than the client reads is held up, and goes on later."""

    async def scenario(scene: Scene) -> None:
        size = 20_000_000
        sent = 0
        paused = False

        class Flood(Site):
            def conn_data(self, data: Buffer) -> None:
                self._conn.consumed(len(data))
                self._conn.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
                self.conn_resume()

            def conn_pause(self) -> None:
                nonlocal paused
                paused = True

            def conn_resume(self) -> None:
                nonlocal sent, paused
                paused = False
                while sent < size and not paused:
                    sent += 50_000
                    self._conn.write(bytes(50_000))

        scene.laptop.on_open = Flood
        async with scene.client() as client:
            client.writer.transport.pause_reading()
            client.writer.write(ADAS)
            await until(lambda: paused)
            assert sent < size
            client.writer.transport.resume_reading()
            await client.reader.readuntil(b"\r\n\r\n")
            assert len(await client.reader.readexactly(size)) == size

    play(scenario)


def test_clients_that_never_finish_a_request(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held back for all of them has a limit; behind it the app gets what they send, as without us."""
    monkeypatch.setattr(ports, "MAX_HELD", 50_000)
    beginning = PLAIN[:-2] + b"X-Pad: " + bytes(10_000).replace(b"\0", b"p")

    async def scenario(scene: Scene) -> None:
        got: list[bytes] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(1 << 16):
                got.append(data)
            writer.close()

        listener = scene.network.pod.listen(POD_IP4, PORT)
        async with await asyncio.start_server(serve, sock=listener), contextlib.AsyncExitStack() as clients:
            for _ in range(8):
                client = await clients.enter_async_context(scene.client())
                client.writer.write(beginning)
            await until(lambda: sum(map(len, got)) >= 3 * len(beginning))
            assert scene.relay.held <= 50_000
            async with scene.client() as client:
                assert await client.ask(ADAS) == "uid-ada 1"  # what is complete needs no room
        await until(lambda: scene.relay.held == 0)

    play(scenario)


def test_a_head_of_a_megabyte(play: Play) -> None:
    """It is the app's to refuse, whosever it is."""

    async def scenario(scene: Scene) -> None:
        request = ADAS[:-2] + b"A: %s\r\n\r\n" % bytes(1_000_000).replace(b"\0", b"a")
        got = bytearray()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while len(got) < len(request):
                got.extend(await reader.read(1 << 16))
            writer.write(page(b"app 1"))

        listener = scene.network.pod.listen(POD_IP4, PORT)
        async with await asyncio.start_server(serve, sock=listener), scene.client() as client:
            assert await client.ask(request) == "app 1"
            assert bytes(got) == request
            assert scene.relay.held == 0

    play(scenario)
