"""What the way into the cluster costs: from a pod, through `tproxy run` and `connect`, and sshuttle, in one run.

In a lab of its own. The same client and server every time, a Service between them; client, server, API server, daemons
and sshd share the machine. The tunnel goes through the lab's API server by port-forward, and past it by TLS
(`-direct`), as sshuttle's ssh does, to a host with routes into the cluster (`yardstick.py`). Rounds alternate; each
figure is the median; quote the ratios. A last table: what is not the cluster's, from the laptop alone, connected, and
with sshuttle.
Run as root, with openssh-server and sshuttle installed: `.venv/bin/python bench/outbound.py`.
"""

import argparse
import contextlib
import json
import re
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import yardstick
from intercept import HERE, LAB, MEGABYTE, PORT, TPROXY, inside, run, status

sys.path.insert(0, str(HERE.parent))

from tproxy.lab.addresses import ROUTER, Node
from tproxy.lab.layout import Layout

NAME = "fast.default.svc.cluster.local"
ELSEWHERE = 8099
ENTER = (str(TPROXY), "lab", "exec", "--name", LAB)
WAYS = ("pod", "run", "connect", "run-direct", "connect-direct", "sshuttle")
FIGURES = {
    "p50, one connection": "µs",
    "requests, one connection": "1/s",
    "requests, 64 connections": "1/s",
    "new connections, 16 at a time": "1/s",
    "download, one connection": "MB/s",
    "p50 of a look-up, new name": "µs",
    "look-ups, new names, 16 at a time": "1/s",
    "look-ups, one name, 16 at a time": "1/s",
}

Round = dict[str, float]


def wrk(place: Sequence[str], url: str, connections: int, seconds: float, *options: str) -> tuple[float, float]:
    """Requests per second and p50 in microseconds."""
    out = run(*place, "wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", *options, url)
    rate, p50 = re.search(r"Requests/sec:\s+([\d.]+)", out), re.search(r"50%\s+([\d.]+)(us|ms|s)", out)
    if not rate or not p50 or "Non-2xx" in out or not float(rate[1]):
        raise SystemExit(out)
    return float(rate[1]), float(p50[1]) * {"us": 1, "ms": 1e3, "s": 1e6}[p50[2]]


def download(place: Sequence[str], url: str, seconds: float) -> float:
    """MB/s of one download, cut off after that long."""
    size = 100_000 * MEGABYTE
    command = ["curl", "-s", "-o", "/dev/null", "-m", f"{seconds:g}", "-w", "%{speed_download}", f"{url}bytes/{size}"]
    done = subprocess.run([*place, *command], capture_output=True, text=True, check=False)
    if done.returncode not in (0, 28):  # 28: the time is over
        raise SystemExit(f"the download failed: {done.stderr}")
    return float(done.stdout) / MEGABYTE


def lookups(place: Sequence[str], at_a_time: int, seconds: float, *options: str) -> tuple[float, float]:
    """Look-ups per second and p50 in microseconds."""
    command = [sys.executable, str(HERE / "lookups.py"), NAME, *options]
    rate, p50, lost = run(*place, *command, "--seconds", str(seconds), "--at-a-time", str(at_a_time)).split()
    if int(lost):
        print(f"{lost} look-ups were lost", file=sys.stderr)
    return float(rate), float(p50)


def measure(place: Sequence[str], url: str, seconds: float) -> Round:
    """One round in one place."""
    single, p50 = wrk(place, url, 1, seconds)
    many, _ = wrk(place, url, 64, seconds)
    fresh, _ = wrk(place, url, 16, seconds, "-H", "Connection: close")
    bulk = download(place, url, seconds)
    _, asked = lookups(place, 1, seconds, "--new")
    new, _ = lookups(place, 16, seconds, "--new")
    again, _ = lookups(place, 16, seconds)
    return dict(zip(FIGURES, (p50, single, many, fresh, bulk, asked, new, again), strict=True))


class Lab:
    """The lab, with the server's Service, a pod to measure from, and perhaps an sshd."""

    def __init__(self, directory: Path, ssh: bool) -> None:
        self.directory = directory
        self.ssh = ssh
        pods = {pod["name"].partition("-")[0]: pod for pod in status()["pods"] if pod["namespace"] == "default"}
        service = json.loads(inside("laptop", "kubectl", "get", "service", "fast", "-o", "json"))
        self.url = f"http://{service['spec']['clusterIP']}:{PORT}/"
        self.client = f"pod/default/{pods['client']['name']}"
        self.node = Node(int(pods["fast"]["node"].removeprefix("node")))
        self.router = Layout(LAB).netns("router")

    @contextlib.contextmanager
    def way(self, way: str) -> Iterator[list[str]]:
        """The words before a command that takes this way, while it stands."""
        laptop = [*ENTER, "laptop", "--"]
        transport = ["--transport", "direct" if way.endswith("-direct") else "port-forward"]
        match way.removesuffix("-direct"):
            case "pod":
                yield [*ENTER, self.client, "--"]
            case "run":
                yield [*laptop, str(TPROXY), "run", *transport, "--"]
            case "connect":
                inside("laptop", str(TPROXY), "connect", *transport)
                try:
                    yield laptop
                finally:
                    inside("laptop", str(TPROXY), "disconnect")
            case "sshuttle":
                with yardstick.running(laptop, self.directory):
                    # It says that it is connected before it catches anything.
                    inside(
                        "laptop", "curl", "-s", "--retry", "20", "--retry-all-errors", "--retry-delay", "1", self.url
                    )
                    yield laptop
            case _:
                yield laptop

    @contextlib.contextmanager
    def elsewhere(self) -> Iterator[str]:
        """A server that is not the cluster's, on the router, while it stands; its URL."""
        command = ["ip", "netns", "exec", self.router, sys.executable, str(HERE / "server.py"), f"--port={ELSEWHERE}"]
        server = subprocess.Popen(command)
        url = f"http://{ROUTER[0]}:{ELSEWHERE}/"
        try:
            inside("laptop", "curl", "-s", "--retry", "20", "--retry-connrefused", "--retry-delay", "1", url)
            yield url
        finally:
            server.terminate()
            server.wait(10)


def compare(lab: Lab, ways: Sequence[str], rounds: int, seconds: float) -> None:
    """Every way in turn, and a table."""
    found: dict[str, list[Round]] = defaultdict(list)
    for number in range(rounds):
        for way in ways:
            with lab.way(way) as place:
                found[way].append(measure(place, lab.url, seconds))
            shown = ", ".join(f"{figure:.0f}" for figure in found[way][-1].values())
            print(f"round {number + 1}, {way}: {shown}", file=sys.stderr)
    table(found, ways, FIGURES)


def beside(lab: Lab, ways: Sequence[str], rounds: int, seconds: float) -> None:
    """What is not the cluster's."""
    found: dict[str, list[Round]] = defaultdict(list)
    names = {"p50, one connection": "µs", "new connections, 16 at a time": "1/s"}
    with lab.elsewhere() as url:
        for _ in range(rounds):
            for way in ways:
                with lab.way(way) as place:
                    _, p50 = wrk(place, url, 1, seconds)
                    fresh, _ = wrk(place, url, 16, seconds, "-H", "Connection: close")
                found[way].append(dict(zip(names, (p50, fresh), strict=True)))
    print("\nnot the cluster's:")
    table(found, ways, names)


def table(found: dict[str, list[Round]], ways: Sequence[str], units: dict[str, str]) -> None:
    """Medians, and how each compares to the first way."""
    print(f"{'':35}" + "".join(f"{way:>17}" for way in ways))
    for name, unit in units.items():
        medians = [statistics.median(one[name] for one in found[way]) for way in ways]
        cells = [f"{figure:9,.0f} {figure / medians[0]:7.2f}" for figure in medians]
        print(f"{name + ', ' + unit:35}" + "".join(cells))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--ways", default=",".join(WAYS), help="those to measure, of: %(default)s")
    options = parser.parse_args()
    ways = options.ways.split(",")
    if "sshuttle" in ways and (missing := yardstick.missing()):
        raise SystemExit(f"missing: {missing}; or measure without: --ways pod,run,connect")
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        manifests = directory / "manifests.yaml"
        parts = [(HERE / file).read_text().replace("BENCH", str(HERE)) for file in ("manifests.yaml", "client.yaml")]
        manifests.write_text("---\n".join(parts))
        stack.callback(lambda: subprocess.run([TPROXY, "lab", "down", "--name", LAB], capture_output=True, check=False))
        run(TPROXY, "lab", "up", "--direct", "--name", LAB)
        run(TPROXY, "lab", "apply", "--name", LAB, "--wait", "-f", manifests)
        lab = Lab(directory, "sshuttle" in ways)
        if lab.ssh:
            stack.enter_context(yardstick.daemon(lab.router, lab.node, directory))
        compare(lab, ways, options.rounds, options.seconds)
        beside(
            lab, ["laptop", *(way for way in ways if way in ("connect", "sshuttle"))], options.rounds, options.seconds
        )


if __name__ == "__main__":
    main()
