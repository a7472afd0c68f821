"""What each steering backend costs, with the app shown its clients and without, side by side in one run.

A pod's network namespace with an app in it, a client outside, and between them the relay of a node daemon, with a
personal intercept that no request matches: each goes on to the app, on the connection that its own client keeps.
`nothing` is the same without steering. Short connections are counted until there were 60,000, closed by the client
first or by the app: they shall take less than 60 s, and none fail, or this exits with 1. The relay's CPU time is what a
busy machine disturbs least. Run as root, with wrk installed: `.venv/bin/python bench/steering.py`.
"""

import argparse
import asyncio
import contextlib
import json
import os
import re
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
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
from tproxy.http.port import Choice
from tproxy.model.match import HeaderMatch, Match
from tproxy.netns.handle import Netns
from tproxy.steer.port import SteeredPort

HERE = Path(__file__).parent
SOURCES = [OUTSIDE_IP4, *(f"10.77.0.{last}" for last in range(10, 14))]
NOBODYS = Route(personal=((Match(headers=(HeaderMatch("x-user", "ada"),)), Choice("uid", "session", "shop/web")),))
ATTACHES = 20
WORKERS = 16
SHORT_SECONDS = 60.0


@dataclass(frozen=True)
class Kept:
    """One round of requests on connections that are kept. Times in µs; `cpu` is the relay's, for a request."""

    attach: float
    p50: float
    rate: float
    cpu: float


@dataclass(frozen=True)
class Short:
    """Short connections: how long all of them took, how many failed, and the relay's CPU time for one (µs)."""

    seconds: float
    failed: int
    cpu: float


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
    pod = PodRelay(pods, PodRef("shop", "web-1", "uid-1"), steering.attach(netns, (), place), {PORT: NOBODYS})
    await pod.serve()
    print(json.dumps(times), flush=True)
    await asyncio.Event().wait()


def many(count: int, close: bool) -> None:
    """The client's process: short connections, as many as `count`, with who closes first."""
    request = b"GET / HTTP/1.1\r\n" + (b"Connection: close\r\n" if close else b"") + b"\r\n"
    patience = struct.pack("ll", 10, 0)
    left = iter(range(count))
    failed = 0

    def worker() -> None:
        nonlocal failed
        for number in left:
            try:
                with socket.socket() as sock:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
                    sock.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT: a port for many destinations
                    sock.bind((SOURCES[number % len(SOURCES)], 0))
                    sock.connect((POD_IP4, PORT))
                    sock.sendall(request)
                    if not sock.recv(4096):
                        raise ConnectionResetError("closed without an answer")
                    while close and sock.recv(4096):
                        pass
            except OSError:
                failed += 1

    began = time.perf_counter()
    threads = [threading.Thread(target=worker) for _ in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
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
def child(*arguments: str, cgroup: Path | None = None, ready: bool = True) -> Iterator[tuple[int, str]]:
    """A process until the end of the block, and the first line it says."""
    join = f"echo $$ > {cgroup}/cgroup.procs && " if cgroup else ""
    with subprocess.Popen(["sh", "-c", f'{join}exec "$@"', "sh", *arguments], stdout=subprocess.PIPE, text=True) as one:
        try:
            assert one.stdout is not None
            yield one.pid, one.stdout.readline() if ready else ""
        finally:
            one.kill()


def cpu(pid: int) -> float:
    """Microseconds that a process has had so far; 0 for none."""
    if not pid:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1e6 / os.sysconf("SC_CLK_TCK")


def kept(network: PodNetwork, relay: int, seconds: float, attach: float) -> Kept:
    """One round."""
    _, p50 = wrk(network, 1, seconds)
    before = cpu(relay)
    rate, _ = wrk(network, 64, seconds)
    return Kept(attach, p50, rate, (cpu(relay) - before) / (rate * seconds))


def short(network: PodNetwork, relay: int, count: int, close: bool) -> Short:
    """All of them."""
    before = cpu(relay)
    me = (sys.executable, str(HERE / "steering.py"))
    seconds, failed = json.loads(network.outside.run(*me, "many", str(count), "1" * close))
    return Short(seconds, failed, (cpu(relay) - before) / count)


def table(figures: dict[str, list[Kept]], shorts: dict[str, list[Short]], count: int) -> str:
    """For the docs; added and shares are of what there is without steering, in this run."""

    def median(title: str, name: str) -> float:
        return float(statistics.median(getattr(one, name) for one in figures[title]))

    heads = ["", "Attach", "Added p50", "Requests/s", "Of unsteered", "CPU for a request"]
    if shorts:
        heads += ["CPU for a short connection", *(f"{count:,}, {who} closing first" for who in ("client", "app"))]
        heads += ["Failed"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for title in figures:
        rate = median(title, "rate")
        cells = [title, f"{median(title, 'attach') / 1e3:.1f} ms"]
        cells += [f"{median(title, 'p50') - median('nothing', 'p50'):.0f} µs"]
        cells += [f"{rate:,.0f}", f"{rate / median('nothing', 'rate'):.0%}", f"{median(title, 'cpu'):.0f} µs"]
        if shorts:
            cells += [" and ".join(f"{one.cpu:.0f}" for one in shorts[title]) + " µs"]
            cells += [f"{one.seconds:.1f} s" for one in shorts[title]]
            cells += [str(sum(one.failed for one in shorts[title]))]
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
    figures: dict[str, list[Kept]] = {title: [] for title, *_ in ways}
    shorts: dict[str, list[Short]] = {}
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
                        relay, attach = 0, 0.0
                        if backend:
                            place = str(cgroup) if shown else ""
                            relay, said = stack.enter_context(child(*me, "relay", backend, network.pod.path, place))
                            attach = statistics.median(json.loads(said)) * 1e6
                        figures[title].append(kept(network, relay, options.seconds, attach))
                        if number == 0 and options.connections:
                            count = options.connections
                            shorts[title] = [short(network, relay, count, close) for close in (False, True)]
                    print(title, figures[title][-1], shorts.get(title), file=sys.stderr)
        print(table(figures, shorts, options.connections))
        missed = [
            title
            for title, found in shorts.items()
            if title != "nothing" and any(one.failed or one.seconds > SHORT_SECONDS for one in found)
        ]
        if missed:
            sys.exit(f"too slow, or with failures: {', '.join(missed)}")
    finally:
        namespaces.close()
        cgroup.rmdir()


if __name__ == "__main__":
    if sys.argv[1:2] == ["relay"]:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(relay(*sys.argv[2:5]))
    elif sys.argv[1:2] == ["many"]:
        many(int(sys.argv[2]), bool(sys.argv[3]))
    else:
        main()
