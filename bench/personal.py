"""What a personal intercept costs: direct, through one HAProxy with the same rule, and through tproxy, in one run.

Unmatched requests are everybody's on the port; matched ones go to the laptop, for HAProxy over the three HAProxies of
`chain.py`. The blind relay (`blind.py`) is Python and our event loop without any rule: the least that a relay in Python
costs. The same server answers on both sides. Rounds alternate; p50 is the least disturbed round's, the others are
medians; quote the ratios.
Run as root, with haproxy installed: `.venv/bin/python bench/personal.py`.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import chain
import router
from intercept import HERE, LAB, PORT, TPROXY, inside, percentiles, rss_mib, run, status

CONNECTIONS = (1, 64)
PATHS = ("direct", "blind relay", "HAProxy", "tproxy")
BLIND = 8091


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        manifests = Path(directory) / "manifests.yaml"
        manifests.write_text((HERE / "manifests.yaml").read_text().replace("BENCH", str(HERE)))
        try:
            run(TPROXY, "lab", "up", "--name", LAB)
            run(TPROXY, "lab", "apply", "--name", LAB, "--wait", "-f", manifests)
            compare(options.rounds, options.seconds, Path(directory))
        finally:
            subprocess.run([TPROXY, "lab", "down", "--name", LAB], capture_output=True, check=False)


def compare(rounds: int, seconds: float, directory: Path) -> None:
    """Alternate the three, with and without the header."""
    state = status()
    pod = next(pod for pod in state["pods"] if pod["name"].startswith("fast-"))
    daemon = next(node["daemon"]["pid"] for node in state["nodes"] if node["name"] == pod["node"])
    url = f"http://{pod['addresses'][0]}:{PORT}/"
    routed = f"http://{pod['addresses'][0]}:{router.PORT}/"
    blind = f"http://{pod['addresses'][0]}:{BLIND}/"
    enter = (TPROXY, "lab", "exec", "--name", LAB)
    place = f"pod/{pod['namespace']}/{pod['name']}"
    server = subprocess.Popen(
        [TPROXY, "lab", "exec", "--name", LAB, "laptop", "--", sys.executable, HERE / "server.py", "--port", str(PORT)]
    )
    relay = subprocess.Popen([*enter, place, "--", sys.executable, HERE / "blind.py", str(BLIND), str(PORT)])
    found: dict[tuple[str, bool, int], list[tuple[float, float, float]]] = defaultdict(list)

    def measure(path: str, where: str, matched: bool) -> None:
        for connections in CONNECTIONS:
            headers = ("-H", router.HEADER) if matched else ()
            found[path, matched, connections].append(percentiles(where, connections, seconds, *headers))

    idle = rss_mib(daemon)
    try:
        with (
            chain.three_proxies(enter, place, PORT, directory),
            router.routing(enter, place, PORT, chain.PORT, directory),
        ):
            inside("user", "curl", "-s", "--retry", "20", "--retry-connrefused", "--retry-delay", "1", routed)
            for number in range(rounds):
                measure("direct", url, False)
                measure("blind relay", blind, False)
                measure("HAProxy", routed, False)
                measure("HAProxy", routed, True)
                inside("laptop", str(TPROXY), "intercept", "fast", "--port", str(PORT), "--http-header", "x-user=ada")
                measure("tproxy", url, False)
                measure("tproxy", url, True)
                inside("laptop", str(TPROXY), "leave", "fast")
                print(f"round {number + 1} of {rounds}", file=sys.stderr)
    finally:
        for process in (server, relay):
            process.terminate()
            process.wait(10)
    print(f"{'':34}{'p50 µs':>10}{'p99 µs':>10}{'requests/s':>12}")
    for matched in (False, True):
        for connections in CONNECTIONS:
            for path in PATHS:
                if rows := found.get((path, matched, connections)):
                    rate, p99 = (statistics.median(row[column] for row in rows) for column in (0, 2))
                    p50 = min(row[1] for row in rows)
                    kind = (
                        path
                        if path in ("direct", "blind relay")
                        else f"{path}, {'matched' if matched else 'unmatched'}"
                    )
                    print(f"{kind:24}{connections:4} conn {p50:10,.0f}{p99:10,.0f}{rate:12,.0f}")
    print(f"node daemon: {idle:.0f} MiB before, {rss_mib(daemon):.0f} MiB after")


if __name__ == "__main__":
    main()
