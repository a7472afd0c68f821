"""Port-forward against WebSocket servers: aiohttp's as an independent implementation, and a raw one for bad manners."""

import asyncio
import base64
import contextlib
import gc
import hashlib
import os
import socket
import ssl
import stat
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvloop
from aiohttp import WSMsgType, web

from tests.unit.kube import certificates
from tests.unit.kube.server import ApiServer, Handler, config_of, serving, status_object, until
from tproxy.errors import ClusterError, DeniedError
from tproxy.kube import portforward
from tproxy.kube.api import ApiCluster
from tproxy.kube.credentials import Access, tls_context
from tproxy.kube.errors import NotFoundError
from tproxy.kube.portforward import PortForward

PATH = "/api/v1/namespaces/shop/pods/node/portforward"
PORT = 4770

Pod = Callable[[web.WebSocketResponse], Awaitable[None]]
Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a coroutine in either event loop: they differ in how transports pause and buffer."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def runner(main: Coroutine[Any, Any, None]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(20):
                await main

        with asyncio.Runner(loop_factory=factory) as loop:
            loop.run(bounded())

    return runner


def kubelet(pod: Pod) -> Handler:
    """A port-forward endpoint: port numbers first, then `pod`, then closed."""

    async def handle(request: web.Request) -> web.StreamResponse:
        assert request.query["ports"] == str(PORT)
        # Behind the API server the kubelet and the runtime have nothing to offer of any one type: they say 406.
        assert request.headers["Accept"] == "*/*"
        ws = web.WebSocketResponse(protocols=("v4.channel.k8s.io",), max_msg_size=1 << 20)
        await ws.prepare(request)
        for channel in (0, 1):
            await ws.send_bytes(bytes([channel]) + PORT.to_bytes(2, "little"))
        await pod(ws)
        await ws.close()
        return ws

    return handle


async def echo(ws: web.WebSocketResponse) -> None:
    async for message in ws:
        assert message.type is WSMsgType.BINARY
        await ws.send_bytes(message.data)


@asynccontextmanager
async def forwarding(
    directory: Path, pod: Pod = echo, answer: Handler | None = None
) -> AsyncIterator[tuple[ApiServer, PortForward, str]]:
    """A server whose pod's port behaves like `pod`, a forward to it, and the path of its socket."""
    async with serving() as server:
        server.answers["GET", PATH] = answer or kubelet(pod)
        cluster = ApiCluster(config_of(server))
        forward = PortForward(cluster, "shop", "node", PORT, directory / "forwards")
        try:
            yield server, forward, await forward.start()
        finally:
            await forward.close()
            await cluster.close()


def test_bytes_arrive_both_ways(tmp_path: Path, run: Run) -> None:
    data = os.urandom(3 << 20)

    async def main() -> None:
        async with forwarding(tmp_path) as (_, forward, path):
            reader, writer = await asyncio.open_unix_connection(path)
            got, _ = await asyncio.gather(reader.readexactly(len(data)), _send(writer, data))
            assert got == data
            # Small ones at once, not when more comes.
            for size in (1, 2, 124, 125, 126, 127):
                writer.write(data[:size])
                assert await reader.readexactly(size) == data[:size]
            writer.close()
            await writer.wait_closed()
            assert forward.error is None

    run(main())


@asynccontextmanager
async def connect_proxy() -> AsyncIterator[tuple[str, list[bytes]]]:
    """An HTTP proxy for CONNECT: its URL, and the request lines it has seen."""
    seen: list[bytes] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        seen.append(head.partition(b"\r\n")[0])
        host, port = head.split()[1].decode().rsplit(":", 1)
        onward_reader, onward_writer = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(pump(reader, onward_writer), pump(onward_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", seen
    finally:
        server.close()


@pytest.mark.parametrize("proxied", [False, True])
def test_over_tls_and_through_a_proxy(tmp_path: Path, run: Run, proxied: bool) -> None:
    pem = certificates.make(tmp_path)
    data = os.urandom(3 << 20)
    access = Access(tls=tls_context(pem.authority.read_bytes(), True, b"", b"", "the test"))

    async def main() -> None:
        server_tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        server_tls.load_cert_chain(pem.server, pem.server_key)
        async with serving(server_tls) as server, connect_proxy() as (proxy, seen):
            server.answers["GET", PATH] = kubelet(echo)
            config = replace(config_of(server, access), server_name="api.test", proxy=proxy if proxied else None)
            cluster = ApiCluster(config)
            forward = PortForward(cluster, "shop", "node", PORT, tmp_path / "forwards")
            reader, writer = await asyncio.open_unix_connection(await forward.start())
            got, _ = await asyncio.gather(reader.readexactly(len(data)), _send(writer, data))
            assert got == data
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            writer.close()
            await until(lambda: not forward._links)
            assert forward.error is None
            assert len(seen) == proxied
            await forward.close()
            await cluster.close()

    run(main())


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


def test_what_the_pod_said_last_is_delivered(tmp_path: Path, run: Run) -> None:
    data = os.urandom(2 << 20)

    async def say_and_close(ws: web.WebSocketResponse) -> None:
        for at in range(0, len(data), 32768):
            await ws.send_bytes(b"\x00" + data[at : at + 32768])

    async def main() -> None:
        async with forwarding(tmp_path, say_and_close) as (_, _, path):
            reader, writer = await asyncio.open_unix_connection(path)
            assert await reader.read() == data
            writer.close()

    run(main())


def test_what_the_laptop_said_last_is_delivered(tmp_path: Path, run: Run) -> None:
    got = bytearray()
    closed = asyncio.Event()

    async def collect(ws: web.WebSocketResponse) -> None:
        async for message in ws:
            got.extend(message.data[1:])
        assert ws.close_code == 1000
        closed.set()

    async def main() -> None:
        async with forwarding(tmp_path, collect) as (_, _, path):
            reader, writer = await asyncio.open_unix_connection(path)
            # All of it before the WebSocket is taken over, then the end.
            writer.write(b"x" * 500_000)
            writer.write_eof()
            assert await reader.read() == b""
            await closed.wait()
            assert got == b"x" * 500_000
            writer.close()

    run(main())


def test_after_its_end_the_laptop_still_hears_the_pod(tmp_path: Path, run: Run) -> None:
    """As far as a protocol without half-close can: what was under way when the other end heard of it."""

    async def answer(ws: web.WebSocketResponse) -> None:
        assert (await ws.receive_bytes())[1:] == b"question"
        await ws.send_bytes(b"\x00answer")

    async def main() -> None:
        async with forwarding(tmp_path, answer) as (_, _, path):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"question")
            writer.write_eof()
            assert await reader.read() == b"answer"
            writer.close()

    run(main())


def test_a_laptop_that_vanishes_ends_the_websocket(tmp_path: Path, run: Run) -> None:
    ended = asyncio.Event()

    async def wait(ws: web.WebSocketResponse) -> None:
        await ws.receive()
        ended.set()

    async def main() -> None:
        async with forwarding(tmp_path, wait) as (_, forward, path):
            _, writer = await asyncio.open_unix_connection(path)
            writer.transport.abort()
            await ended.wait()
            await until(lambda: not forward._links)

    run(main())


def test_the_pods_error_is_kept_and_ends_the_connection(tmp_path: Path, run: Run) -> None:
    async def refuse(ws: web.WebSocketResponse) -> None:
        await ws.send_bytes(b"\x01dial tcp4 127.0.0.1:4770: ")
        await ws.send_bytes(b"\x01connect: connection refused")

    async def main() -> None:
        async with forwarding(tmp_path, refuse) as (_, forward, path):
            reader, writer = await asyncio.open_unix_connection(path)
            assert await reader.read() == b""
            assert forward.error is not None
            assert forward.error.message == (
                "the cluster cannot reach port 4770 of pod shop/node: "
                "dial tcp4 127.0.0.1:4770: connect: connection refused"
            )
            writer.close()

    run(main())


def test_an_endless_error_is_cut(tmp_path: Path, run: Run) -> None:
    async def refuse(ws: web.WebSocketResponse) -> None:
        for _ in range(20):
            await ws.send_bytes(b"\x01" + b"no " * 1000)

    async def main() -> None:
        async with forwarding(tmp_path, refuse) as (_, forward, path):
            reader, writer = await asyncio.open_unix_connection(path)
            assert await reader.read() == b""
            assert forward.error is not None
            assert len(forward.error.message) < 1200
            writer.close()

    run(main())


def test_a_slow_laptop_stops_the_pod(tmp_path: Path, run: Run) -> None:
    sent = [0]

    async def flood(ws: web.WebSocketResponse) -> None:
        while True:
            await ws.send_bytes(b"\x00" + b"x" * 32768)
            sent[0] += 32768

    async def main() -> None:
        async with forwarding(tmp_path, flood) as (_, _, path):
            reader, writer = await asyncio.open_unix_connection(path)
            await _steady(lambda: sent[0])
            # Socket buffers and our write buffer, but not all there is.
            assert sent[0] < 32 << 20
            before = sent[0]
            await reader.readexactly(sent[0])
            await until(lambda: sent[0] > before)
            writer.transport.abort()

    run(main())


def test_a_slow_pod_stops_the_laptop(tmp_path: Path, run: Run) -> None:
    go = asyncio.Event()
    got = [0]

    async def wait(ws: web.WebSocketResponse) -> None:
        await go.wait()
        async for message in ws:
            got[0] += len(message.data) - 1

    async def main() -> None:
        async with forwarding(tmp_path, wait) as (_, _, path):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(path)
                sock.setblocking(False)
                sent = [0]

                def push() -> int:
                    try:
                        while True:
                            sent[0] += sock.send(b"x" * 65536)
                    except BlockingIOError:
                        return sent[0]

                await _steady(push)
                assert sent[0] < 32 << 20
                go.set()
                sock.shutdown(socket.SHUT_WR)
                await until(lambda: got[0] == sent[0])

    run(main())


async def _steady(value: Callable[[], int]) -> None:
    """Wait until `value` has not changed for 100 ms."""
    loop = asyncio.get_running_loop()
    last, since = value(), loop.time()
    while loop.time() - since < 0.1:
        await asyncio.sleep(0.005)
        if (now := value()) != last:
            last, since = now, loop.time()


def test_connections_are_independent(tmp_path: Path, run: Run) -> None:
    async def main() -> None:
        async with forwarding(tmp_path) as (server, forward, path):
            first = await asyncio.open_unix_connection(path)
            second = await asyncio.open_unix_connection(path)
            for index, (reader, writer) in enumerate((first, second)):
                writer.write(b"%d" % index)
                assert await reader.readexactly(1) == b"%d" % index
            assert len(server.seen) == 2
            first[1].transport.abort()
            await until(lambda: len(forward._links) == 1)
            second[1].write(b"still")
            assert await second[0].readexactly(5) == b"still"
            second[1].transport.abort()

    run(main())


def test_connections_have_a_limit(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portforward, "CONNECTIONS", 1)

    async def main() -> None:
        async with forwarding(tmp_path) as (_, _, path):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"x")
            await reader.readexactly(1)
            refused, other = await asyncio.open_unix_connection(path)
            assert await refused.read() == b""
            other.close()
            writer.close()

    run(main())


def test_the_first_websocket_is_used_for_the_first_connection(tmp_path: Path, run: Run) -> None:
    async def main() -> None:
        async with forwarding(tmp_path) as (server, _, path):
            assert len(server.seen) == 1
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            assert len(server.seen) == 1
            writer.close()

    run(main())


def test_a_first_websocket_that_has_died_is_replaced(tmp_path: Path, run: Run) -> None:
    opened = 0

    async def first_dies(request: web.Request) -> web.StreamResponse:
        nonlocal opened
        opened += 1
        if opened > 1:
            return await kubelet(echo)(request)
        ws = web.WebSocketResponse(protocols=("v4.channel.k8s.io",))
        await ws.prepare(request)
        assert request.transport is not None
        request.transport.abort()
        return ws

    async def main() -> None:
        async with forwarding(tmp_path, answer=first_dies) as (_, forward, path):
            ready = forward._ready
            assert ready is not None
            await until(lambda: not ready.alive)
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            writer.close()

    run(main())


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (
            (403, status_object(403, "Forbidden", "User x cannot get resource y")),
            DeniedError,
            'you may not get pods/portforward in namespace "shop"',
        ),
        ((404, status_object(404, "NotFound", 'pods "node" not found', name="node")), NotFoundError, "not found"),
        ((200, {}), ClusterError, "opened no v4.channel.k8s.io WebSocket"),
        ((500, {}), ClusterError, "failed to get pods/portforward"),
    ],
)
def test_what_is_raised_at_the_start(
    tmp_path: Path, answer: object, error: type[ClusterError], message: str, run: Run
) -> None:
    async def main() -> None:
        async with serving() as server:
            server.answers["GET", PATH] = answer
            cluster = ApiCluster(config_of(server))
            forward = PortForward(cluster, "shop", "node", PORT, tmp_path / "forwards")
            with pytest.raises(error, match=message):
                await forward.start()
            await forward.close()
            await cluster.close()

    run(main())
    assert list((tmp_path / "forwards").iterdir()) == []


def test_what_fails_later_is_kept_and_ends_the_connection(tmp_path: Path, run: Run) -> None:
    async def main() -> None:
        async with forwarding(tmp_path) as (server, forward, path):
            _, used = await asyncio.open_unix_connection(path)
            await until(lambda: forward._ready is None)
            server.answers["GET", PATH] = (403, status_object(403, "Forbidden", "User x cannot get resource y"))
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"hello?")
            with contextlib.suppress(ConnectionResetError):  # the kernel's word for an unread question
                assert await reader.read() == b""
            assert isinstance(forward.error, DeniedError)
            writer.close()
            used.close()

    run(main())


def test_a_server_without_the_subprotocol(tmp_path: Path, run: Run) -> None:
    async def other(request: web.Request) -> web.StreamResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        return ws

    async def main() -> None:
        async with serving() as server:
            server.answers["GET", PATH] = other
            cluster = ApiCluster(config_of(server))
            with pytest.raises(ClusterError, match=r"opened no v4\.channel\.k8s\.io WebSocket"):
                await PortForward(cluster, "shop", "node", PORT, tmp_path / "f").start()
            await cluster.close()

    run(main())


def frame(opcode: int, payload: bytes) -> bytes:
    return bytes([0x80 | opcode, len(payload)]) + payload


@asynccontextmanager
async def raw(directory: Path, *parts: bytes) -> AsyncIterator[tuple[PortForward, str, list[bytes]]]:
    """A server that sends the head of the upgrade and then `parts`, all in one write, and collects what it gets."""
    got: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        (key,) = (line for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key: "))
        digest = hashlib.sha1(key.partition(b": ")[2] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", usedforsecurity=False)
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n"
            b"Sec-WebSocket-Accept: " + base64.b64encode(digest.digest()) + b"\r\n\r\n" + b"".join(parts)
        )
        while data := await reader.read(65536):
            got.append(data)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    api = ApiServer(url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    cluster = ApiCluster(config_of(api))
    forward = PortForward(cluster, "shop", "node", PORT, directory / "forwards")
    try:
        yield forward, await forward.start(), got
    finally:
        await forward.close()
        await cluster.close()
        server.close()
        await server.wait_closed()


PORTS = frame(2, b"\x00" + PORT.to_bytes(2, "little")) + frame(2, b"\x01" + PORT.to_bytes(2, "little"))


def test_what_comes_in_one_piece_with_the_head_is_not_lost(tmp_path: Path, run: Run) -> None:
    async def main() -> None:
        async with raw(tmp_path, PORTS, frame(2, b"\x00banner")) as (_, path, _):
            reader, writer = await asyncio.open_unix_connection(path)
            assert await reader.readexactly(6) == b"banner"
            writer.close()

    run(main())


def test_port_numbers_and_payload_may_share_messages(tmp_path: Path, run: Run) -> None:
    number = PORT.to_bytes(2, "little")
    pieces = frame(2, b"\x00" + number[:1]) + frame(2, b"\x00" + number[1:] + b"banner")

    async def main() -> None:
        async with raw(tmp_path, pieces) as (_, path, _):
            reader, writer = await asyncio.open_unix_connection(path)
            assert await reader.readexactly(6) == b"banner"
            writer.close()

    run(main())


def test_pings_are_answered(tmp_path: Path, run: Run) -> None:
    async def main() -> None:
        async with raw(tmp_path, PORTS, frame(9, b"abc")) as (_, path, got):
            _, writer = await asyncio.open_unix_connection(path)
            await until(lambda: bool(got))
            answer = b"".join(got)
            assert answer[:2] == b"\x8a\x83"
            assert bytes(a ^ b for a, b in zip(answer[6:], answer[2:5], strict=True)) == b"abc"
            writer.close()

    run(main())


@pytest.mark.parametrize(
    ("part", "says"),
    [
        (frame(1, b"\x00text"), "unexpected opcode 1"),
        (frame(2, b"\x07x"), "channel 7 was not asked for"),
        (b"\xff" * 100, "reserved bits"),
    ],
)
def test_nonsense_ends_the_connection(tmp_path: Path, part: bytes, says: str, run: Run) -> None:
    async def main() -> None:
        async with raw(tmp_path, PORTS, part) as (forward, path, _):
            reader, writer = await asyncio.open_unix_connection(path)
            assert await reader.read() == b""
            assert forward.error is not None
            assert says in forward.error.message
            assert "sent nonsense on port 4770 of pod shop/node" in forward.error.message
            writer.close()

    run(main())


def test_the_other_ends_close_is_answered_and_ends_the_connection(tmp_path: Path, run: Run) -> None:
    async def main() -> None:
        async with raw(tmp_path, PORTS, frame(2, b"\x00bye"), frame(8, b"\x03\xe8")) as (_, path, got):
            reader, writer = await asyncio.open_unix_connection(path)
            assert await reader.read() == b"bye"
            await until(lambda: b"".join(got)[:1] == b"\x88")
            writer.close()

    run(main())


def test_a_server_that_never_answers_our_close(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portforward, "_CLOSE_SECONDS", 0.05)

    async def main() -> None:
        async with raw(tmp_path, PORTS) as (forward, path, _):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write_eof()
            assert await reader.read() == b""
            await until(lambda: not forward._links)
            writer.close()

    run(main())


def test_who_connects_while_it_closes_is_let_go(tmp_path: Path, run: Run) -> None:
    """Whatever has become of the connection by then: waiting, accepted, or about to get a transport."""

    async def main() -> None:
        for turns in range(12):
            async with forwarding(tmp_path) as (_, forward, path):
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(path)
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    await forward.close()
                    client.settimeout(0)
                    await until(lambda: ended(client))

    def ended(client: socket.socket) -> bool:
        try:
            return client.recv(1) == b""
        except BlockingIOError:
            return False
        except ConnectionError:
            return True

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run(main())
        gc.collect()
    assert [str(one.message) for one in said] == []


def test_nobody_else_may_use_the_socket(tmp_path: Path, run: Run) -> None:
    async def main() -> None:
        async with forwarding(tmp_path) as (_, forward, path):
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
            assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700
            await forward.close()
            assert not list((tmp_path / "forwards").iterdir())

    run(main())


def test_a_directory_open_to_others_is_refused(tmp_path: Path, run: Run) -> None:
    async def main() -> None:
        (tmp_path / "forwards").mkdir(mode=0o755)
        with pytest.raises(ClusterError, match="is open to other users"):
            async with forwarding(tmp_path):
                pass
        (tmp_path / "forwards").rmdir()
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        (tmp_path / "forwards").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(ClusterError, match="is open to other users"):
            async with forwarding(tmp_path):
                pass

    run(main())


def test_a_directory_that_cannot_be_used(tmp_path: Path, run: Run) -> None:
    async def main() -> None:
        with pytest.raises(ClusterError, match="is too long for a socket"):
            async with forwarding(tmp_path / ("d" * 100)):
                pass
        (tmp_path / "file").touch()
        with pytest.raises(ClusterError, match="cannot make the directory"):
            async with forwarding(tmp_path / "file"):
                pass

    run(main())
