"""Port-forward against a WebSocket server that is not ours, aiohttp's: bytes, ends, speed, and how many at once."""

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from tests.unit.kube import certificates
from tests.unit.kube.forwards import PATH, PORT, Run, echo, forwarding, kubelet
from tests.unit.kube.server import config_of, serving, until
from tproxy.kube import portforward
from tproxy.kube.api import ApiCluster
from tproxy.kube.credentials import Access, tls_context
from tproxy.kube.portforward import PortForward


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
