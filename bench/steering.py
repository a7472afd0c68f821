"""What each steering backend costs, with the app shown its clients and without, side by side in one run.

A pod's network namespace with an app in it, a client outside, and between them the relay of a node daemon without any
laptop: everything that is steered goes on to the app, as health checks and unmatched requests do. `nothing` is the
same without steering. Short connections are counted until there were 60,000, closed by the client first or by the app:
they shall take less than 60 s, and none fail, or this exits with 1. Run as root: `.venv/bin/python bench/steering.py`.
"""

import argparse
import asyncio
import contextlib
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parent.parent))

from tproxy_node.desired import Route
from tproxy_node.plan import PodRef
from tproxy_node.relay import Limits, PodRelay, Relay

from tests.kernel.answering import PORT
from tests.kernel.backends import BACKENDS
from tests.kernel.namespaces import OUTSIDE_IP4, POD_IP4, Namespaces, PodNetwork
from tests.kernel.node import cgroup_mount
from tproxy.netns.handle import Netns
from tproxy.steer.port import SteeredPort

HERE = Path(__file__).parent
SOURCES = [OUTSIDE_IP4, *(f"10.77.0.{last}" for last in range(10, 14))]
ATTACHES = 20
WORKERS = 16
SHORT_SECONDS = 60.0


async def relay(backend: str, path: str, cgroup: str) -> None:
    """The relay's process: times attaching, then serves until ended."""
    steering = BACKENDS[backend]()
    netns, place = Netns.open(path), Path(cgroup) if cgroup else None
    times = []
    for _ in range(ATTACHES):
        began = time.perf_counter()
        attachment = steering.attach(netns, [SteeredPort(PORT)], place)
        times.append(time.perf_counter() - began)
        attachment.close()
    pods = Relay(lambda _: None, Limits())
    steering.renew(3600)
    pod = PodRelay(pods, PodRef("shop", "web-1", "uid-1"), steering.attach(netns, (), place), {PORT: Route()})
    await pod.serve()
    print(json.dumps(times), flush=True)
    await asyncio.Event().wait()


async def many(path: str, count: int, close: bool) -> None:
    """The client's process: short connections, as many as `count`, with who closes first."""
    loop = asyncio.get_running_loop()
    request = b"GET / HTTP/1.1\r\n" + (b"Connection: close\r\n" if close else b"") + b"\r\n"
    place = Netns.open(path)
    left = iter(range(count))
    failed = 0

    async def worker() -> None:
        nonlocal failed
        for number in left:
            with place.entered():
                sock = socket.socket()
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT: one port for many destinations
            try:
                sock.bind((SOURCES[number % len(SOURCES)], 0))
                async with asyncio.timeout(10):
                    await loop.sock_connect(sock, (POD_IP4, PORT))
                    await loop.sock_sendall(sock, request)
                    await loop.sock_recv(sock, 4096)
                    while close and await loop.sock_recv(sock, 4096):
                        pass
            except OSError:
                failed += 1
            finally:
                sock.close()

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(WORKERS)))
    print(json.dumps([time.perf_counter() - began, failed]))


def wrk(network: PodNetwork, connections: int, seconds: float) -> tuple[float, float]:
    """Requests per second and p50 in microseconds."""
    url = f"http://{POD_IP4}:{PORT}/"
    out = network.outside.run("wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", url)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", out)
    p50 = re.search(r"50%\s+([\d.]+)(us|ms|s)", out)
    if not rate or not p50 or "Non-2xx" in out:
        raise SystemExit(out)
    return float(rate[1]), float(p50[1]) * {"us": 1, "ms": 1e3, "s": 1e6}[p50[2]]


@contextlib.contextmanager
def child(*arguments: str, cgroup: Path | None = None, ready: bool = True) -> Iterator[str]:
    """A process until the end of the block, and the first line it says."""
    join = f"echo $$ > {cgroup}/cgroup.procs && " if cgroup else ""
    with subprocess.Popen(["sh", "-c", f'{join}exec "$@"', "sh", *arguments], stdout=subprocess.PIPE, text=True) as one:
        try:
            assert one.stdout is not None
            yield one.stdout.readline() if ready else ""
        finally:
            one.kill()


def short(network: PodNetwork, count: int, close: bool) -> tuple[float, int]:
    """Short connections: how many in a second, and how many failed."""
    me = (sys.executable, str(HERE / "steering.py"))
    out = subprocess.run([*me, "many", network.outside.path, str(count), "1" * close], capture_output=True, check=True)
    seconds, failed = json.loads(out.stdout)
    return count / seconds, failed


def table(
    figures: dict[str, list[tuple[float, float, float]]], shorts: dict[str, list[tuple[float, int]]], count: int
) -> str:
    """For the docs; added and shares are of what there is without steering, in this run."""
    medians = {
        title: [statistics.median(column) for column in zip(*rounds, strict=True)] for title, rounds in figures.items()
    }
    _, direct, most = medians["nothing"]
    short = [f"{count:,} short ones, {who} closing first" for who in ("client", "app")] if shorts else []
    heads = ["", "Attach", "Added p50", "Requests/s", "Of unsteered", *short, *(["Failed"] if shorts else [])]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for title, (attach, p50, rate) in medians.items():
        cells = [title, f"{attach:.1f} ms", f"{p50 - direct:.0f} µs", f"{rate:,.0f}", f"{rate / most:.0%}"]
        cells += [f"{count / per_second:.1f} s" for per_second, _ in shorts.get(title, ())]
        cells += [str(sum(failed for _, failed in shorts[title]))] if title in shorts else []
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--connections", type=int, default=60000)
    options = parser.parse_args()
    namespaces = Namespaces()
    cgroup = cgroup_mount() / f"tproxy-bench-{os.getpid()}"
    cgroup.mkdir()
    me = (sys.executable, str(HERE / "steering.py"))
    ways: list[tuple[str, str, bool]] = [("nothing", "", False)]
    ways += [
        (f"{name}{', client shown' if shown else ''}", name, shown) for name in BACKENDS for shown in (False, True)
    ]
    figures: dict[str, list[tuple[float, float, float]]] = {title: [] for title, *_ in ways}
    shorts: dict[str, list[tuple[float, int]]] = {}
    try:
        network = namespaces.make_pod()
        for source in SOURCES[1:]:
            network.outside.run("ip", "address", "add", f"{source}/24", "dev", "pod0")
        network.outside.run("sysctl", "-qw", "net.ipv4.ip_local_port_range=1024 65535")
        server = ("ip", "netns", "exec", network.pod.name, sys.executable, str(HERE / "server.py"), "--port", str(PORT))
        with child(*server, cgroup=cgroup, ready=False):
            time.sleep(1)
            for number in range(options.rounds):
                for title, backend, shown in ways:
                    with contextlib.ExitStack() as stack:
                        attach = 0.0
                        if backend:
                            place = str(cgroup) if shown else ""
                            said = stack.enter_context(child(*me, "relay", backend, network.pod.path, place))
                            attach = statistics.median(json.loads(said)) * 1e3
                        _, p50 = wrk(network, 1, options.seconds)
                        rate, _ = wrk(network, 64, options.seconds)
                        figures[title].append((attach, p50, rate))
                        if number == 0 and options.connections:
                            shorts[title] = [short(network, options.connections, close) for close in (False, True)]
                    print(title, figures[title][-1], shorts.get(title), file=sys.stderr)
        print(table(figures, shorts, options.connections))
        missed = [
            title
            for title, found in shorts.items()
            for rate, failed in found
            if title != "nothing" and (failed or options.connections / rate > SHORT_SECONDS)
        ]
        if missed:
            sys.exit(f"too slow, or with failures: {', '.join(dict.fromkeys(missed))}")
    finally:
        namespaces.close()
        cgroup.rmdir()


if __name__ == "__main__":
    if sys.argv[1:2] == ["relay"]:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(relay(*sys.argv[2:5]))
    elif sys.argv[1:2] == ["many"]:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(many(sys.argv[2], int(sys.argv[3]), bool(sys.argv[4])))
    else:
        main()
