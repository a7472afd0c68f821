"""Connections that the app had before: which are taken over, unnoticed by clients, and which are never touched."""

import asyncio
import contextlib
import ctypes
import signal
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvloop
from tproxy_node import own_sockets
from tproxy_node import pool as module
from tproxy_node.desired import Route
from tproxy_node.plan import PodRef
from tproxy_node.pool import Pools
from tproxy_node.relay import Limits, PodRelay, Relay

from tests.kernel.answering import PORT
from tests.kernel.namespaces import POD_IP4, POD_IP6, PodNetwork, until
from tests.kernel.test_node_relay import ROUTE
from tests.unit.node.streams import tunnel
from tproxy.netns.descriptors import find
from tproxy.steer import handover
from tproxy.steer.connections import Connection, ConnectionList
from tproxy.steer.port import Steering
from tproxy.steer.sock_diag import ListenerList
from tproxy.tunnel.conn import Buffer, Conn
from tproxy.tunnel.endpoint import Endpoint

APP = Path(__file__).with_name("pool_app.py")
GET = b"GET / HTTP/1.1\r\nHost: web\r\n\r\n"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def post(size: int, path: bytes = b"/") -> bytes:
    return b"POST %s HTTP/1.1\r\nHost: web\r\nContent-Length: %d\r\n\r\n" % (path, size) + b"x" * size


class Answering:
    """The laptop's app: answers each request with the size of its body, for bodies that come whole or in parts."""

    def __init__(self, conn: Conn) -> None:
        self._conn = conn
        self._heard = b""
        conn.sink = self
        conn.accept()

    def conn_opened(self) -> None: ...
    def conn_pause(self) -> None: ...
    def conn_resume(self) -> None: ...
    def conn_reset(self, reason: object, detail: str) -> None: ...

    def conn_data(self, data: Buffer) -> None:
        self._heard += bytes(data)
        self._conn.consumed(len(data))
        while (end := self._heard.find(b"\r\n\r\n")) >= 0:
            head = self._heard[:end].lower()
            size = int(head.partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)
            if len(self._heard) < end + 4 + size:
                return
            self._heard = self._heard[end + 4 + size :]
            text = b"laptop %d" % size
            self._conn.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))

    def conn_eof(self) -> None:
        self._conn.write_eof()


class Scene:
    """A pod whose app runs in a process of its own, and a laptop."""

    def __init__(self, network: PodNetwork, steering: Steering, app: asyncio.subprocess.Process) -> None:
        self.network = network
        self.app = app
        self.stream: Endpoint | None
        self.stream, self.laptop = tunnel()
        self.laptop.on_open = Answering
        self.relay = Relay(lambda _: self.stream if self.stream and self.stream.alive else None, Limits())
        self.changes = 0
        self.pools = Pools(Path("/proc"), self._changed)
        self.pools.renew(60)
        self._steering = steering
        self.pod: PodRelay | None = None

    def _changed(self) -> None:
        self.changes += 1

    async def intercept(self, route: Route = ROUTE) -> None:
        attachment = self._steering.attach(self.network.pod.netns, ())
        self.pod = PodRelay(self.relay, PodRef("shop", "web-1", "uid-1"), attachment, {PORT: route})
        await self.pod.serve()
        pool = self.pod.watch_pool(self.pools, self.network.pod.netns)
        await pool.looked.wait()

    def counted(self) -> dict[int, int]:
        """By port, how many connections are still with the app."""
        assert self.pod is not None
        assert self.pod.pool is not None
        return {port: one.count for port, one in self.pod.pool.staying.items()}

    def why(self) -> str:
        assert self.pod is not None
        assert self.pod.pool is not None
        return self.pod.pool.staying[PORT].why

    def accepted(self) -> list[Connection]:
        """The app's connections."""
        listed = ConnectionList(self.network.pod.netns)
        try:
            return [one for one in listed.of(PORT) if one.inode]
        finally:
            listed.close()

    def heard(self) -> int:
        """How much the laptop has been sent."""
        assert self.stream is not None
        return self.stream.stats.bytes_out

    def read_all(self) -> bool:
        """Whether the app has read everything that its clients have sent."""
        lines = self.network.pod.run("ss", "-tnH", "state", "established", "sport", "=", str(PORT)).splitlines()
        return bool(lines) and all(line.split()[0] == "0" for line in lines)

    async def ended(self) -> str:
        """How the next of the app's connections ends, as the app sees it."""
        assert self.app.stdout is not None
        return (await self.app.stdout.readline()).decode().strip()


@contextlib.asynccontextmanager
async def client(network: PodNetwork, host: str = POD_IP4, place: str = "outside") -> AsyncIterator[Streams]:
    sock = await getattr(network, place).connect(host, PORT)
    reader, writer = await asyncio.open_connection(sock=sock)
    try:
        yield reader, writer
    finally:
        writer.close()


async def ask(streams: Streams, request: bytes = GET, heads: list[bytes] | None = None) -> str:
    """The answer's body; its head is added to `heads`."""
    reader, writer = streams
    writer.write(request)
    async with asyncio.timeout(5):
        head = await reader.readuntil(b"\r\n\r\n")
        if heads is not None:
            heads.append(head)
        size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        return (await reader.readexactly(size)).decode()


Scenario = Callable[[Scene], Awaitable[None]]
Play = Callable[[Scenario], None]


@pytest.fixture
def play(network: PodNetwork, steering: Steering) -> Play:
    def run(scenario: Scenario) -> None:
        async def whole() -> None:
            app = await asyncio.create_subprocess_exec(
                *("ip", "netns", "exec", network.pod.name, sys.executable, str(APP), str(PORT)),
                stdout=asyncio.subprocess.PIPE,
            )
            assert app.stdout is not None
            assert await app.stdout.readline() == b"ready\n"
            scene = Scene(network, steering, app)
            try:
                async with asyncio.timeout(30):
                    await scenario(scene)
                    if scene.pod is not None:
                        scene.pod.abandon()
                    await until(lambda: not scene.relay.flows.live)
            finally:
                if scene.pod is not None:
                    scene.pod.abandon()
                scene.laptop.close()
                await scene.relay.close()
                scene.pools.close()
                app.kill()
                await app.wait()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(whole())

    return run


@pytest.mark.parametrize("host", [POD_IP4, POD_IP6])
@pytest.mark.parametrize("request_", [GET, post(100_000), post(1_000_000)])
def test_the_next_request_of_a_kept_connection_comes_to_the_laptop(play: Play, host: str, request_: bytes) -> None:
    async def scenario(scene: Scene) -> None:
        async with client(scene.network, host) as streams:
            assert await ask(streams) == "app "
            await scene.intercept()
            assert scene.counted() == {PORT: 1}
            size = len(request_.partition(b"\r\n\r\n")[2])
            assert await ask(streams, request_) == f"laptop {size}"
            assert await ask(streams, request_) == f"laptop {size}"
            # Whoever wakes at once may find the socket still under repair.
            assert await scene.ended() in ("ConnectionAbortedError", "BrokenPipeError", "PermissionError")
        assert scene.pools.results == {"taken": 1}
        await scene.relay.idle()

    play(scenario)


class Slow:
    """The C library, where the moment in which nobody has a connection is a long one."""

    def __init__(self, library: Any) -> None:
        self.setsockopt, self.getsockopt = library.setsockopt, library.getsockopt
        self._connect = library.connect

    def connect(self, number: int, address: bytes, size: int) -> int:
        if address != handover._UNSPECIFIED:
            time.sleep(0.5)  # longer than the client's TCP waits before it sends something again
        return int(self._connect(number, address, size))


@pytest.mark.parametrize("host", [POD_IP4, POD_IP6])
def test_what_is_sent_again_meanwhile_does_no_harm(play: Play, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "_libc", Slow(handover._libc))

    async def scenario(scene: Scene) -> None:
        async with client(scene.network, host) as streams:
            await ask(streams)
            await scene.intercept()
            assert await ask(streams, post(3000)) == "laptop 3000"
            assert await ask(streams) == "laptop 0"
            async with client(scene.network, host) as others:
                assert await ask(others) == "laptop 0"
        assert scene.pools.results == {"taken": 1}
        assert filters(scene.network) == [0, 0]

    play(scenario)


ALL = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0xFFFFFFFF))
"""A filter of one instruction, which lets everything pass."""


def instructions(sock: socket.socket) -> int:
    """Of its filter, if it has one."""
    count = ctypes.c_uint32(0)
    libc = ctypes.CDLL(None)
    assert libc.getsockopt(sock.fileno(), socket.SOL_SOCKET, 26, None, ctypes.byref(count)) == 0  # SO_GET_FILTER
    return count.value


def filters(network: PodNetwork) -> list[int]:
    """Of all that listen on the app's port."""
    with contextlib.closing(ListenerList(network.pod.netns)) as listeners:
        found = find(Path("/proc"), network.pod.netns.id, listeners.of(PORT))
    with contextlib.ExitStack() as stack:
        return [instructions(stack.enter_context(one.borrow())) for one in found.values()]


def test_an_apps_own_filter_stays(network: PodNetwork) -> None:
    with contextlib.ExitStack() as stack:
        plain, filtered, locked = (stack.enter_context(network.pod.listen("::", PORT + one)) for one in range(3))
        filtered.setsockopt(socket.SOL_SOCKET, 26, struct.pack("@HP", 1, ctypes.addressof(ALL)))  # SO_ATTACH_FILTER
        locked.setsockopt(socket.SOL_SOCKET, 44, 1)  # SO_LOCK_FILTER
        with handover._deaf([plain, filtered, locked], 4242, 1):
            assert [instructions(one) for one in (plain, filtered, locked)] == [8, 1, 0]
        assert [instructions(one) for one in (plain, filtered, locked)] == [0, 1, 0]


@pytest.fixture(params=[POD_IP4, POD_IP6])
def host(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_FIRST_SECONDS", 0.05)
    monkeypatch.setattr(module, "PUBLISH_SECONDS", 0.05)


@pytest.mark.usefixtures("quick")
def test_what_has_not_come_over_is_counted(play: Play) -> None:
    async def scenario(scene: Scene) -> None:
        async with client(scene.network) as one, client(scene.network) as other:
            for streams in (one, other):
                await ask(streams)
            await scene.intercept()
            assert scene.counted() == {PORT: 2}
            assert await ask(one) == "laptop 0"
            await until(lambda: scene.counted() == {PORT: 1})
            other[1].close()
            await until(lambda: scene.counted() == {})
        assert 1 <= scene.changes <= 3

    play(scenario)


def test_without_connections_nobody_looks_through_all_of_the_daemons_sockets(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are many where many pods are intercepted: 200 pods took half a minute."""
    looked: list[int] = []
    all_of_them = own_sockets.own_sockets
    monkeypatch.setattr(own_sockets, "own_sockets", lambda: looked.append(1) or all_of_them())

    async def scenario(scene: Scene) -> None:
        await scene.intercept()
        assert looked == []
        async with client(scene.network) as streams:
            assert await ask(streams) == "laptop 0"
            assert scene.pod is not None
            assert scene.pod.pool is not None
            scene.pod.pool.routes_changed()
            await until(lambda: bool(looked))

    play(scenario)


def test_a_connection_never_used_before_comes_over(play: Play) -> None:
    async def scenario(scene: Scene) -> None:
        async with client(scene.network) as streams:
            await until(lambda: bool(scene.accepted()))
            await scene.intercept()
            assert await ask(streams) == "laptop 0"

    play(scenario)


async def begun(streams: Streams, request: bytes, until_: bytes) -> None:
    streams[1].write(request)
    async with asyncio.timeout(5):
        await streams[0].readuntil(until_)


@pytest.mark.parametrize("path", [b"/events", b"/slow"])
def test_an_answer_that_goes_on_is_not_touched(play: Play, host: str, path: bytes) -> None:
    """Event streams and downloads, quiet or not, also when the client already sends its next request."""

    async def scenario(scene: Scene) -> None:
        async with client(scene.network, host) as streams:
            await begun(streams, GET.replace(b"/ ", path + b" "), b"\r\n\r\n")
            await scene.intercept()
            scene.app.send_signal(signal.SIGUSR1)
            await streams[0].readuntil(b"data: 2\n\n" if path == b"/events" else b"done")
            # The answer has ended, as the app and its client know.
            assert await ask(streams) == "laptop 0"

    play(scenario)


@pytest.mark.parametrize("body", [b"abcdefgh", b"POST / HTTP/1.1\r\n"])
def test_a_request_that_goes_on_is_not_touched(play: Play, host: str, body: bytes) -> None:
    """Half of its body was there before; the rest may look like anything."""

    async def scenario(scene: Scene) -> None:
        async with client(scene.network, host) as streams:
            await ask(streams)
            # Within one tick of the kernel's clock nobody can tell who spoke last.
            await asyncio.sleep(0.02)
            streams[1].write(post(2 * len(body)).partition(b"xx")[0] + body)
            await until(lambda: scene.read_all())
            await scene.intercept()
            assert await ask(streams, body) == f"app {(body + body).decode()}"
            assert await ask(streams) == "laptop 0"

    play(scenario)


def test_websockets_are_not_touched(play: Play, host: str) -> None:
    async def scenario(scene: Scene) -> None:
        async with client(scene.network, host) as streams:
            await begun(streams, GET.replace(b"/ ", b"/ws "), b"\r\n\r\n")
            await scene.intercept()
            frame = b"\x81\x85abcd" + b"hello"
            streams[1].write(frame)
            assert await streams[0].readexactly(len(frame)) == frame
        assert not scene.pools.results

    play(scenario)


@pytest.mark.parametrize(
    ("route", "line", "why"),
    [
        (replace(ROUTE, speaks="postgresql"), b"GET / HTTP/1.1\n", "the port speaks postgresql"),
        (replace(ROUTE, existing="keep"), GET, "kept there, as asked"),
        (ROUTE, b"COMMIT WORK AND GO ON\n", "HTTP/1 comes over with its next request, anything else stays"),
    ],
)
def test_what_is_no_http_or_shall_be_kept_is_not_touched(
    play: Play, host: str, route: Route, line: bytes, why: str
) -> None:
    async def scenario(scene: Scene) -> None:
        async with client(scene.network, host) as (reader, writer):
            writer.write(b"BEGIN\n")
            assert await reader.readline() == b"app BEGIN\n"
            await scene.intercept(route)
            assert scene.why().startswith(why)
            writer.write(line)
            async with asyncio.timeout(5):
                assert b"app " in await reader.readuntil(b"app ")
        assert not scene.pools.results

    play(scenario)


def test_all_are_reset_if_so_chosen(play: Play) -> None:
    async def scenario(scene: Scene) -> None:
        async with client(scene.network) as one, client(scene.network, POD_IP6) as other:
            await ask(one)
            await begun(other, GET.replace(b"/ ", b"/events "), b"\n\n")
            await scene.intercept(replace(ROUTE, existing="reset"))
            for reader, _ in (one, other):
                with pytest.raises(ConnectionResetError):
                    await reader.read()
        assert scene.pools.results == {"reset": 2}
        assert scene.counted() == {}

    play(scenario)


def test_without_a_lease_the_app_gets_the_request(play: Play) -> None:
    """So it is when the daemon hangs or has died."""

    async def scenario(scene: Scene) -> None:
        async with client(scene.network) as streams:
            await ask(streams)
            await scene.intercept()
            scene.pools.renew(0)
            assert await ask(streams, post(3)) == "app xxx"
            scene.pools.renew(60)
            assert await ask(streams) == "laptop 0"

    play(scenario)


def test_a_request_that_nobody_takes_reaches_the_app(play: Play) -> None:
    async def scenario(scene: Scene) -> None:
        hold = scene.pools.hold
        assert hold is not None
        async with client(scene.network) as streams:
            await ask(streams)
            await scene.intercept()
            hold.on_held = lambda held: None
            assert await ask(streams, post(3)) == "app xxx"

    play(scenario)


def test_without_a_tunnel_and_after_leaving_the_app_goes_on(play: Play) -> None:
    async def scenario(scene: Scene) -> None:
        async with client(scene.network) as streams:
            await ask(streams)
            await scene.intercept()
            stream, scene.stream = scene.stream, None
            assert await ask(streams, post(3)) == "app xxx"
            scene.stream = stream
            leave(scene)
            assert await ask(streams, post(4)) == "app xxxx"

    play(scenario)


def leave(scene: Scene) -> None:
    assert scene.pod is not None
    scene.pod.stop()
    scene.relay.tasks.start(scene.pod.finish(), "finish")


@pytest.mark.parametrize("request_", [GET, post(100_000)])
def test_after_leaving_the_next_request_goes_to_the_app_and_the_connection_ends(
    play: Play, host: str, request_: bytes
) -> None:
    async def scenario(scene: Scene) -> None:
        async with client(scene.network, host) as streams:
            await scene.intercept()
            assert await ask(streams) == "laptop 0"
            leave(scene)
            heads: list[bytes] = []
            assert (await ask(streams, request_, heads)).startswith("app ")
            assert b"connection: close" in heads[0].lower(), "so that the client begins no other request there"
            async with asyncio.timeout(2):
                assert await streams[0].read() == b""
        await scene.relay.idle()
        assert scene.relay.resets == {}
        await until(lambda: not scene.laptop.stats.connections)

    play(scenario)


def test_a_request_under_way_when_leaving_is_the_laptops(play: Play) -> None:
    async def scenario(scene: Scene) -> None:
        async with client(scene.network) as streams:
            await scene.intercept()
            await ask(streams)
            whole = post(5000)
            streams[1].write(whole[:3000])
            await until(lambda: scene.heard() > 2900)
            leave(scene)
            assert await ask(streams, whole[3000:]) == "laptop 5000"
            assert await ask(streams, post(2)) == "app xx"

    play(scenario)


def test_a_new_intercept_gets_what_the_one_before_had(play: Play) -> None:
    async def scenario(scene: Scene) -> None:
        async with client(scene.network) as streams:
            await scene.intercept()
            await ask(streams)
            assert scene.pod is not None
            scene.pod.set_routes({PORT: replace(ROUTE, intercept="uid-next")})
            assert await ask(streams) == "laptop 0"
        assert scene.relay.opened == {"laptop": 2}

    play(scenario)


def test_what_is_no_http_has_its_time_after_leaving(play: Play) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.intercept(replace(ROUTE, drain_seconds=1))
        async with client(scene.network) as (reader, writer):
            writer.write(b"BEGIN\r\n\r\n")
            await reader.readuntil(b"laptop 0")
            leave(scene)
            writer.write(b"COMMIT\r\n\r\n")
            await reader.readuntil(b"laptop 0")
            with pytest.raises(ConnectionResetError):
                async with asyncio.timeout(3):
                    await reader.read()

    play(scenario)
