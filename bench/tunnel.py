"""What the tunnel alone costs: client -> relay -> gRPC -> bridge -> server beside a direct connection, in one run.

Four processes on the loopback: wrk or a bulk reader, a relay with the node's end of the tunnel, one with the
laptop's end, and bench/server.py. No cluster, no lab, no root. Each figure is the median of alternating rounds. The
processor time of the two ends hardly depends on what else the machine does: compare versions by it.
Run: `.venv/bin/python bench/tunnel.py`.
"""

import argparse
import asyncio
import contextlib
import os
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parent.parent))

from tproxy.model.flow import Address, FlowKind, OpenRequest
from tproxy.rpc.client import connect
from tproxy.rpc.server import TunnelServer
from tproxy.tasks import Tasks
from tproxy.tunnel.bridge import Bridge, connect_bridge
from tproxy.tunnel.endpoint import Conn, Endpoint
from tproxy.tunnel.hello import Hello

HERE = Path(__file__).parent
MEGABYTE = 1_000_000
TOKEN = bytes(32)


class Relay(Bridge):
    """An accepted connection, opened through the tunnel."""

    endpoint: Endpoint

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        host, port = transport.get_extra_info("sockname")[:2]
        self.join(self.endpoint.open(OpenRequest(FlowKind.INBOUND, Address(host, port)), self))
        super().connection_made(transport)


async def node(relay_port: int, grpc_port: int) -> None:
    """The node's end: listens for clients and for the laptop."""
    connected: asyncio.Queue[Endpoint] = asyncio.Queue()

    async def authenticate(hello: Hello) -> str:
        return hello.session

    server = TunnelServer("bench", authenticate, lambda _identity, endpoint: connected.put_nowait(endpoint))
    await server.start("127.0.0.1", grpc_port)
    Relay.endpoint = await connected.get()
    listener = await asyncio.get_running_loop().create_server(Relay, "127.0.0.1", relay_port, backlog=4096)
    async with listener:
        await listener.serve_forever()


async def laptop(grpc_port: int, app_port: int) -> None:
    """The laptop's end: connects to the app."""
    tasks = Tasks("bench")

    def on_open(conn: Conn) -> None:
        connect_bridge(conn, [("127.0.0.1", app_port)], tasks)

    endpoint = await connect(f"127.0.0.1:{grpc_port}", Hello("bench", "bench", TOKEN), on_open)
    await endpoint.wait_closed()


def wrk(port: int, connections: int, seconds: float) -> tuple[float, float]:
    """Requests per second and p50 in microseconds."""
    done = subprocess.run(
        ["wrk", "--latency", f"-c{connections}", "-t1", f"-d{seconds:g}s", f"http://127.0.0.1:{port}/"],
        capture_output=True,
        text=True,
        check=True,
    )
    rate = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    p50 = re.search(r"50%\s+([\d.]+)(us|ms|s)", done.stdout)
    if rate is None or p50 is None or "errors" in done.stdout:
        raise SystemExit(done.stdout)
    return float(rate[1]), float(p50[1]) * {"us": 1, "ms": 1e3, "s": 1e6}[p50[2]]


def bulk(port: int, size: int) -> float:
    """Megabytes per second of one large response."""
    buffer = bytearray(1024 * 1024)
    with socket.create_connection(("127.0.0.1", port)) as sock:
        started = time.perf_counter()
        sock.sendall(b"GET /bytes/%d HTTP/1.1\r\nHost: bench\r\n\r\n" % size)
        left = size
        while left > 0:
            got = sock.recv_into(buffer)
            if not got:
                raise SystemExit("the response was cut short")
            left -= got
        return size / (time.perf_counter() - started) / MEGABYTE


@dataclass
class Figures:
    """One path, one round."""

    p50: float
    single: float
    many: float
    bulk: float
    cpu_single: float  # microseconds per request, of all ends of the tunnel
    cpu_many: float
    cpu_bulk: float  # seconds per gigabyte


def measure(port: int, seconds: float, size: int, ends: Sequence[int] = ()) -> Figures:
    """One round; `ends` are the processes whose time is counted."""
    spent = [sum(map(cpu_seconds, ends))]
    single, p50 = wrk(port, 1, seconds)
    spent.append(sum(map(cpu_seconds, ends)))
    many, _ = wrk(port, 64, seconds)
    spent.append(sum(map(cpu_seconds, ends)))
    rate = bulk(port, size)
    spent.append(sum(map(cpu_seconds, ends)))
    first, second, third = (after - before for before, after in pairwise(spent))
    cpu = (first / single / seconds * 1e6, second / many / seconds * 1e6, third / size * 1e9)
    return Figures(p50, single, many, rate, *cpu)


def wait_listening(port: int) -> None:
    """Until something accepts on `port`."""
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    raise SystemExit(f"nobody listens on {port}")


def free_port() -> int:
    """A port nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def rss_mib(pid: int) -> float:
    """Resident memory of a process, MiB."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def cpu_seconds(pid: int) -> float:
    """Processor time a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Run all parts and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3, help="of each wrk run")
    parser.add_argument("--bytes", type=int, default=1024**3, help="of each bulk transfer")
    parser.add_argument("--role", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.role:
        role, *ports = args.role
        run: Callable[..., object] = {"node": node, "laptop": laptop}[role]
        return uvloop.run(run(*map(int, ports)))  # type: ignore[arg-type]

    app, grpc, relay = free_port(), free_port(), free_port()
    me = [sys.executable, str(Path(__file__)), "--role"]
    commands = [
        [sys.executable, str(HERE / "server.py"), "--port", str(app)],
        [*me, "node", str(relay), str(grpc)],
        [*me, "laptop", str(grpc), str(app)],
    ]
    processes = []
    try:
        for command, port in zip(commands, (app, grpc, relay), strict=True):
            processes.append(subprocess.Popen(command))
            wait_listening(port)
        direct, tunnel = [], []
        for _ in range(args.rounds):
            direct.append(measure(app, args.seconds, args.bytes))
            ends = [process.pid for process in processes[1:]]
            tunnel.append(measure(relay, args.seconds, args.bytes, ends))
        report(direct, tunnel)
        print("resident, MiB:".ljust(28), *(f"{rss_mib(pid):10.0f}" for pid in ends))
    finally:
        for process in processes:
            process.terminate()
            process.wait()


def report(direct: list[Figures], tunnel: list[Figures]) -> None:
    """Medians side by side."""
    rows = (("p50, 1 connection, µs", "p50"), ("requests/s, 1 connection", "single"))
    rows += (("requests/s, 64 connections", "many"), ("bulk, MB/s", "bulk"))
    print(f"{'':28}{'direct':>10}{'tunnel':>10}{'ratio':>8}")
    for label, field in rows:
        near = statistics.median(getattr(figures, field) for figures in direct)
        far = statistics.median(getattr(figures, field) for figures in tunnel)
        print(f"{label:28}{near:10.0f}{far:10.0f}{far / near:8.2f}")
    print("processor time of both ends:")
    costs = (("µs/request, 1 connection", "cpu_single"), ("µs/request, 64 connections", "cpu_many"))
    costs += (("s/GB, bulk", "cpu_bulk"),)
    for label, field in costs:
        print(f"{label:38}{statistics.median(getattr(figures, field) for figures in tunnel):10.2f}")


if __name__ == "__main__":
    main()
