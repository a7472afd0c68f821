"""What the laptop's port-forward costs: unix socket -> PortForward -> WebSocket on the loopback.

Three processes: the API server's end of the WebSocket and the laptop's program, both as thin as they can be, and
between them the PortForward, whose CPU time counts. Run: `.venv/bin/python bench/portforward.py`.
"""

import asyncio
import base64
import contextlib
import hashlib
import multiprocessing
import resource
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parent.parent))

from tproxy.kube.api import ApiCluster
from tproxy.kube.config import ClusterConfig
from tproxy.kube.credentials import Access
from tproxy.kube.portforward import PortForward

PORT = 4770
BULK = 1 << 30
ROUNDS = 3
SMALL = 200
TRIPS = 5000


def frame(payload: bytes) -> bytes:
    """A message on the data channel, as a server sends it."""
    length = len(payload) + 1
    size = bytes([length]) if length < 126 else b"\x7e" + length.to_bytes(2, "big")
    return b"\x82" + size + b"\x00" + payload


def upgrade(connection: socket.socket) -> None:
    """Answer the handshake, and say the port on both channels."""
    head = b""
    while b"\r\n\r\n" not in head:
        head += connection.recv(65536)
    key = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key")).split(b": ")[1]
    accept = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", usedforsecurity=False).digest()
    number = PORT.to_bytes(2, "little")
    connection.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Protocol: v4.channel.k8s.io\r\nSec-WebSocket-Accept: "
        + base64.b64encode(accept)
        + b"\r\n\r\n\x82\x03\x00"
        + number
        + b"\x82\x03\x01"
        + number
    )


def serve(listener: socket.socket, work: Callable[[socket.socket], None]) -> None:
    """The API server's end, for one connection."""
    connection, _ = listener.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    upgrade(connection)
    work(connection)
    connection.close()


def sink(connection: socket.socket) -> None:
    """Read BULK bytes, or until the end."""
    room, left = bytearray(1 << 20), BULK
    while left > 0 and (size := connection.recv_into(room)):
        left -= size


def source(message: int, total: int) -> Callable[[socket.socket], None]:
    """Send `total` bytes in messages of `message` bytes."""

    def work(connection: socket.socket) -> None:
        many = (1 << 20) // message
        burst = frame(b"x" * message) * many
        for _ in range(total // (message * many)):
            connection.sendall(burst)

    return work


def answer(connection: socket.socket) -> None:
    """Answer each small message with one."""
    reply = frame(b"y" * SMALL)
    asked = 4 + 4 + 1 + SMALL
    got = 0
    while data := connection.recv(65536):
        got += len(data)
        while got >= asked:
            got -= asked
            connection.sendall(reply)


def push(connection: socket.socket) -> None:
    """The laptop's program sends BULK bytes, less what the framing adds: the other end counts that too."""
    block = b"x" * (1 << 18)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for _ in range(BULK // len(block)):
            connection.sendall(block)
        connection.recv(1)


def ask(connection: socket.socket) -> None:
    """The laptop's program asks and waits for the answer, many times."""
    times = []
    for _ in range(TRIPS):
        began = time.perf_counter()
        connection.sendall(b"x" * SMALL)
        got = 0
        while got < SMALL:
            got += len(connection.recv(65536))
        times.append(time.perf_counter() - began)
    print(f"  round trip p50 {statistics.median(times) * 1e6:.0f} µs", flush=True)


def laptop(path: str, work: Callable[[socket.socket], None]) -> None:
    """The laptop's program, for one connection."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        work(connection)


async def run(server_work: Callable[[socket.socket], None], laptop_work: Callable[[socket.socket], None]) -> float:
    """Forward one connection; the CPU seconds that took here."""
    context = multiprocessing.get_context("fork")
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    cluster = ApiCluster(ClusterConfig(url, "default", "", Access(), Access))
    server = context.Process(target=serve, args=(listener, server_work))
    server.start()
    listener.close()
    with tempfile.TemporaryDirectory() as directory:
        forward = PortForward(cluster, "default", "pod", PORT, directory)
        program = context.Process(target=laptop, args=(await forward.start(), laptop_work))
        before = resource.getrusage(resource.RUSAGE_SELF)
        program.start()
        await asyncio.to_thread(program.join)
        after = resource.getrusage(resource.RUSAGE_SELF)
        await forward.close()
    await cluster.close()
    await asyncio.to_thread(server.join)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    """Print what was measured."""
    small = BULK // 8
    cases = (
        ("pod to laptop, messages of 32 KiB", source(32768, BULK), sink, BULK),
        ("pod to laptop, messages of 2 KiB", source(2048, small), sink, small),
        ("laptop to pod", sink, push, BULK),
    )
    for title, server_work, laptop_work, size in cases:
        walls, cpus = [], []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            cpus.append(uvloop.run(run(server_work, laptop_work)))
            walls.append(time.perf_counter() - began)
        print(
            f"{title}: {size / 1e6 / statistics.median(walls):.0f} MB/s, "
            f"{size / 1e6 / statistics.median(cpus):.0f} MB per CPU second",
            flush=True,
        )
    print(f"{SMALL} bytes there and back:", flush=True)
    cpu = uvloop.run(run(answer, ask))
    print(f"  {cpu / TRIPS * 1e6:.0f} µs of CPU each", flush=True)


if __name__ == "__main__":
    main()
