"""What an intercept costs: with and without, side by side, in one run, in a lab of its own.

The same server answers on both sides; the client is the outside user of the lab. The tunnel goes through the lab's API
server by port-forward, as it does through any API server's, and by the direct transport past it. Beside them the same
path through three HAProxies (`chain.py`), which says what the path alone costs. Each figure is the median of
alternating rounds; quote the ratios. Run as root, with haproxy and wrk installed:
`.venv/bin/python bench/intercept.py`.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import chain

HERE = Path(__file__).parent
TPROXY = Path(sys.executable).with_name("tproxy")
LAB = "bench"
PORT = 8080
MEGABYTE = 1_000_000


def run(*command: str | Path) -> str:
    """Output of a command that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))} left with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def inside(place: str, *command: str) -> str:
    """Output of a command in a place of the lab."""
    return run(TPROXY, "lab", "exec", "--name", LAB, place, "--", *command)


def status() -> dict[str, Any]:
    """`tproxy lab status`."""
    return dict(json.loads(run(TPROXY, "lab", "status", "--name", LAB, "-o", "json")))


def rss_mib(pid: int) -> float:
    """Resident memory of a process, MiB."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


@dataclass
class Figures:
    """One round."""

    p50_us: float
    requests: float
    bulk: float


def wrk(url: str, connections: int, seconds: float) -> tuple[float, float]:
    """Requests per second and p50 in microseconds."""
    rate, p50, _ = percentiles(url, connections, seconds)
    return rate, p50


def percentiles(url: str, connections: int, seconds: float, *options: str) -> tuple[float, float, float]:
    """Requests per second, p50 and p99 in microseconds. `options` are more of wrk's."""
    out = inside("user", "wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", *options, url)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", out)
    found = [re.search(rf"{percent}%\s+([\d.]+)(us|ms|s)", out) for percent in (50, 99)]
    if not rate or not all(found) or "Non-2xx" in out:
        raise SystemExit(out)
    p50, p99 = (float(one[1]) * {"us": 1, "ms": 1e3, "s": 1e6}[one[2]] for one in found if one)
    return float(rate[1]), p50, p99


def bulk(url: str, size: int) -> float:
    """MB/s of one download."""
    out = inside("user", "curl", "-s", "-o", "/dev/null", "-w", "%{speed_download} %{size_download}", url)
    speed, got = out.split()
    if int(got) != size:
        raise SystemExit(f"{got} bytes instead of {size}")
    return float(speed) / MEGABYTE


def measure(url: str, seconds: float, size: int) -> Figures:
    """One round of everything."""
    _, p50 = wrk(f"{url}/", 1, seconds)
    rate, _ = wrk(f"{url}/", 64, seconds)
    return Figures(p50, rate, bulk(f"{url}/bytes/{size}", size))


def timed(command: Callable[[], object]) -> float:
    """Seconds."""
    began = time.monotonic()
    command()
    return time.monotonic() - began


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--megabytes", type=int, default=1000)
    options = parser.parse_args()
    size = options.megabytes * MEGABYTE
    with tempfile.TemporaryDirectory() as directory:
        manifests = Path(directory) / "manifests.yaml"
        manifests.write_text((HERE / "manifests.yaml").read_text().replace("BENCH", str(HERE)))
        try:
            run(TPROXY, "lab", "up", "--name", LAB, "--direct")
            run(TPROXY, "lab", "apply", "--name", LAB, "--wait", "-f", manifests)
            compare(options.rounds, options.seconds, size, Path(directory))
        finally:
            subprocess.run([TPROXY, "lab", "down", "--name", LAB], capture_output=True, check=False)


def compare(rounds: int, seconds: float, size: int, directory: Path) -> None:
    """Alternate: no intercept, one by port-forward, one by the direct transport, the chain of proxies."""
    state = status()
    pod = next(pod for pod in state["pods"] if pod["name"].startswith("fast-"))
    daemon = next(node["daemon"]["pid"] for node in state["nodes"] if node["name"] == pod["node"])
    url = f"http://{pod['addresses'][0]}:{PORT}"
    idle = rss_mib(daemon)
    server = subprocess.Popen(
        [TPROXY, "lab", "exec", "--name", LAB, "laptop", "--", sys.executable, HERE / "server.py", "--port", str(PORT)]
    )
    intercept = (str(TPROXY), "intercept", "fast", "--port", str(PORT), "--transport")
    plain: list[Figures] = []
    others: dict[str, list[Figures]] = {"port-forward": [], "direct": [], "3 HAProxies": []}
    live: dict[str, list[float]] = {"port-forward": [], "direct": []}
    enter = (TPROXY, "lab", "exec", "--name", LAB)
    pod_place = f"pod/{pod['namespace']}/{pod['name']}"
    chain_url = f"http://{pod['addresses'][0]}:{chain.PORT}"
    cold = timed(lambda: inside("laptop", *intercept, "port-forward"))
    inside("laptop", str(TPROXY), "leave", "fast")
    try:
        for number in range(rounds):
            for transport, times in live.items():
                times.append(timed(lambda: inside("laptop", *intercept, transport)))  # noqa: B023
                others[transport].append(measure(url, seconds, size))
                daemons = json.loads(inside("laptop", str(TPROXY), "status", "-o", "json"))
                inside("laptop", str(TPROXY), "leave", "fast")
            plain.append(measure(url, seconds, size))
            with chain.three_proxies(enter, pod_place, PORT, directory):
                inside("user", "curl", "-s", "--retry", "20", "--retry-connrefused", "--retry-delay", "1", chain_url)
                others["3 HAProxies"].append(measure(chain_url, seconds, size))
            each = ", ".join(f"{name}: {figures[-1]}" for name, figures in others.items())
            print(f"round {number + 1}: {plain[-1]}, {each}", file=sys.stderr)
        laptop_daemon = int(daemons["daemon"]["pid"])

        def median(figures: list[Figures], name: str) -> float:
            return statistics.median(getattr(one, name) for one in figures)

        def row(title: str, name: str, unit: str) -> None:
            one = median(plain, name)
            cells = [f"{(other := median(figures, name)):13,.0f} {other / one:6.0%}" for figures in others.values()]
            print(f"{title:27} {one:12,.0f} {' '.join(cells)}   {unit}")

        print(f"{'':27} {'no intercept':>12} " + " ".join(f"{name:>13} {'ratio':>6}" for name in others))
        row("p50, one connection", "p50_us", "µs")
        row("requests, 64 connections", "requests", "1/s")
        row("download, one connection", "bulk", "MB/s")
        for name, times in live.items():
            added = median(others[name], "p50_us") - median(plain, "p50_us")
            print(f"{name}: added p50 {added:.0f} µs, typed to live {statistics.median(times):.2f} s")
        print(f"typed to live with daemon start: {cold:.2f} s")
        print(f"node daemon: {idle:.0f} MiB idle, {rss_mib(daemon):.0f} MiB after the load")
        print(f"laptop daemon: {rss_mib(laptop_daemon):.0f} MiB after the load")
    finally:
        server.terminate()
        server.wait(10)


if __name__ == "__main__":
    main()
