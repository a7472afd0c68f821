"""What a personal intercept costs gRPC: unary calls direct, through one HAProxy with the same rule, and through tproxy.

h2load calls a gRPC server in Python (grpc.aio), which answers on both sides. Beside it nginx serves a small page by
HTTP/2: there the server costs next to nothing, so that what is in between shows undiluted. Unmatched is everybody's
traffic on the port; matched goes to the laptop through the tunnel. Each figure is the median of alternating rounds;
quote the ratios. Run as root, with haproxy, nginx and nghttp2-client installed: `.venv/bin/python bench/calls.py`.
"""

import argparse
import contextlib
import re
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from intercept import HERE, LAB, TPROXY, inside, rss_mib, run, status

CALLS, PAGES, ROUTED = 50051, 8080, 10_000
"""Ports of the pod: the gRPC server, nginx, and what is added to them for the one behind HAProxy."""

HEADER = "x-user: ada"
STREAMS = (1, 64)

MANIFESTS = """
apiVersion: apps/v1
kind: Deployment
metadata: {{name: fast}}
spec:
  replicas: 1
  selector: {{matchLabels: {{app: fast}}}}
  template:
    metadata: {{labels: {{app: fast}}}}
    spec:
      containers:
        - name: calls
          command: [python, {here}/calls_server.py, --port, "{calls}"]
          ports: [{{name: calls, containerPort: {calls}}}]
          readinessProbe: {{tcpSocket: {{port: calls}}, periodSeconds: 1}}
        - name: pages
          command: [nginx, -c, {directory}/nginx.conf]
          ports: [{{name: pages, containerPort: {pages}}}]
          readinessProbe: {{tcpSocket: {{port: pages}}, periodSeconds: 1}}
"""

NGINX = """
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr crit;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  keepalive_requests 100000000;
  server {{
    listen [::]:{port} http2 ipv6only=off;
    location / {{ return 200 "hello, world"; }}
  }}
}}
"""

HAPROXY = """
global
    maxconn 4096
    nbthread 1
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
"""

FRONT = """
frontend front{port}
    bind :{front} proto h2
    use_backend laptop{port} if {{ req.hdr(x-user) -m str ada }}
    default_backend app{port}
backend app{port}
    server app 127.0.0.1:{port} proto h2
backend laptop{port}
    server laptop 127.0.0.1:{port} proto h2
"""


@dataclass(frozen=True)
class Load:
    """What one h2load run saw."""

    rate: float
    p50_us: float
    p99_us: float


def load(address: str, port: int, streams: int, seconds: float, directory: Path, header: str = "") -> Load:
    """Calls of the gRPC server, or pages of nginx; one connection."""
    options = ["-c1", "-t1", f"-m{streams}", f"-D{seconds:g}", "--warm-up-time=1"]
    path = "/"
    if port in (CALLS, CALLS + ROUTED):
        path = "/bench.Echo/Call"
        options += ["-H", "content-type: application/grpc", "-H", "te: trailers", "-d", str(directory / "call")]
    if header:
        options += ["-H", header]
    log = directory / "log"
    log.unlink(missing_ok=True)
    out = inside("user", "h2load", *options, f"--log-file={log}", f"http://{address}:{port}{path}")
    if " 0 failed, 0 errored" not in out or " 0 4xx, 0 5xx" not in out:
        raise SystemExit(out)
    times = sorted(int(line.split()[2]) for line in log.read_text().splitlines())
    rate = re.search(r", ([\d.]+) req/s", out)
    if rate is None or not times:
        raise SystemExit(out)
    return Load(float(rate[1]), times[len(times) // 2], times[len(times) * 99 // 100])


@contextlib.contextmanager
def haproxy(place: str, directory: Path) -> Iterator[None]:
    """The same rule in one HAProxy in the pod."""
    config = directory / "haproxy.cfg"
    fronts = "".join(FRONT.format(port=port, front=port + ROUTED) for port in (CALLS, PAGES))
    config.write_text(HAPROXY + fronts)
    enter = [TPROXY, "lab", "exec", "--name", LAB, place, "--", "haproxy", "-db", "-f", config]
    process = subprocess.Popen(enter, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


def compare(rounds: int, seconds: float, directory: Path) -> None:
    """Alternate everything, and print the table."""
    state = status()
    pod = next(pod for pod in state["pods"] if pod["name"].startswith("fast-"))
    daemon = next(node["daemon"]["pid"] for node in state["nodes"] if node["name"] == pod["node"])
    address, place = pod["addresses"][0], f"pod/{pod['namespace']}/{pod['name']}"
    laptop = [TPROXY, "lab", "exec", "--name", LAB, "laptop", "--"]
    servers = [
        subprocess.Popen([*laptop, sys.executable, HERE / "calls_server.py", "--port", str(CALLS)]),
        subprocess.Popen([*laptop, "nginx", "-c", directory / "laptop.conf"]),
    ]
    found: dict[tuple[str, int, int], list[Load]] = defaultdict(list)
    idle = rss_mib(daemon)
    mapping = [word for port in (CALLS, PAGES) for word in ("--port", str(port))]
    try:
        with haproxy(place, directory):
            for number in range(rounds):
                for port in (CALLS, PAGES):
                    for streams in STREAMS:
                        found["direct", port, streams].append(load(address, port, streams, seconds, directory))
                        routed = port + ROUTED
                        found["HAProxy", port, streams].append(load(address, routed, streams, seconds, directory))
                inside("laptop", str(TPROXY), "intercept", "fast", *mapping, "--http-header", "x-user=ada")
                for port in (CALLS, PAGES):
                    for streams in STREAMS:
                        found["unmatched", port, streams].append(load(address, port, streams, seconds, directory))
                        matched = load(address, port, streams, seconds, directory, HEADER)
                        found["matched", port, streams].append(matched)
                inside("laptop", str(TPROXY), "leave", "fast")
                print(f"round {number + 1} of {rounds}", file=sys.stderr)
    finally:
        for server in servers:
            server.terminate()
            server.wait(10)
    print(f"{'':28}{'requests/s':>11} {'of direct':>9} {'p50 µs':>9} {'p99 µs':>9}")
    for port, what in ((CALLS, "gRPC calls"), (PAGES, "pages of nginx")):
        for streams in STREAMS:
            print(f"{what}, {streams} at a time")
            direct = statistics.median(one.rate for one in found["direct", port, streams])
            for path in ("direct", "HAProxy", "unmatched", "matched"):
                loads = found[path, port, streams]
                rate, p50, p99 = (
                    statistics.median(getattr(one, name) for one in loads) for name in ("rate", "p50_us", "p99_us")
                )
                print(f"    {path:24}{rate:11,.0f} {rate / direct:9.0%} {p50:9,.0f} {p99:9,.0f}")
    print(f"node daemon: {idle:.0f} MiB idle, {rss_mib(daemon):.0f} MiB after the load")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        (directory / "call").write_bytes(b"\0\0\0\0\x05hello")
        (directory / "nginx.conf").write_text(NGINX.format(directory=directory, port=PAGES))
        laptop = NGINX.format(directory=directory, port=PAGES).replace("nginx.pid", "laptop.pid")
        (directory / "laptop.conf").write_text(laptop)
        manifests = directory / "manifests.yaml"
        manifests.write_text(MANIFESTS.format(here=HERE, directory=directory, calls=CALLS, pages=PAGES))
        try:
            run(TPROXY, "lab", "up", "--name", LAB)
            run(TPROXY, "lab", "apply", "--name", LAB, "--wait", "-f", manifests)
            compare(options.rounds, options.seconds, directory)
        finally:
            subprocess.run([TPROXY, "lab", "down", "--name", LAB], capture_output=True, check=False)


if __name__ == "__main__":
    main()
