"""What a person waits for on a real Kubernetes of two nodes on this machine, and what the node daemon takes there.

- `tproxy intercept`, typed, until the first request is answered by the laptop, and `tproxy connect`, typed, until the
  first name is reached: with a laptop daemon that runs, and after `tproxy quit`, when everything begins. Medians of 10.
- The image, packed and unpacked; the node daemon's memory when it is idle and with 50 intercepts, one at a time.
- With `--pods 200`, so many real pods on one node: how long the node daemon's look at the processes takes to find each
  one's network namespace, and how long `tproxy intercept` of all of them at once.

The cluster is that of tests/e2e. As root, with what `make e2e` needs: `.venv/bin/python bench/cluster.py [--pods 200]`.
"""

import argparse
import gzip
import json
import re
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "cli"), str(ROOT / "node-daemon")]

import yaml  # noqa: E402

from tests.e2e import workloads as make  # noqa: E402
from tests.e2e.chart import Release  # noqa: E402
from tests.e2e.cluster import APPS, Cluster, path_of  # noqa: E402
from tests.e2e.node import PAUSE  # noqa: E402
from tests.e2e.person import Person, wait  # noqa: E402
from tests.e2e.shop import NAMESPACE, Pods  # noqa: E402

ROUNDS = 10
PORTS = 50
LOCAL = 3300
HELLO = ROOT / "tests" / "lab" / "hello.py"

DISCOVER = """
import json, sys, time
from tproxy.netns.discovery import Discovery, WantedPod
pods = [WantedPod(uid, (address,)) for uid, address in json.load(sys.stdin)]
took = []
for _ in range(10):
    began = time.perf_counter()
    found = Discovery().find(pods)
    took.append(time.perf_counter() - began)
    networks = [one for one in found.values() if hasattr(one, "close")]
    for one in networks:
        one.close()
print(json.dumps({"found": len(networks), "seconds": sorted(took)}))
"""
UNTIL = 'began=$1; shift; until [ "$("$@" 2>/dev/null | cut -c1-6)" = "$began" ]; do :; done'


def median_of(rounds: list[float]) -> str:
    """For people."""
    return f"{statistics.median(rounds):.2f} s (from {min(rounds):.2f} to {max(rounds):.2f}, {len(rounds)} times)"


def repeated(act: Callable[[], float], undo: Callable[[], object], before: Callable[[], object]) -> str:
    """Every round's seconds, as a median."""
    took = []
    for _ in range(ROUNDS):
        before()
        took.append(act())
        undo()
    return median_of(took)


class Bench:
    """The figures, one after the other."""

    def __init__(self, cluster: Cluster, dora: Person) -> None:
        self.cluster, self.dora = cluster, dora

    def waiting(self) -> None:
        """`intercept` and `connect`."""
        pods = Pods(self.cluster, "web")
        [address] = [pod["status"]["podIP"] for pod in pods.listed() if pod["metadata"]["name"]][:1]
        dora = self.dora

        def intercept() -> float:
            began = time.monotonic()
            asking = self.cluster.user.start(
                "sh", "-c", UNTIL, "sh", "laptop", "curl", "-s", "--max-time", "5", f"http://{address}:8080/",
                log=self.cluster.directory / "asking.log",
            )  # fmt: skip
            dora.tproxy("intercept", "web", "--port", f"{LOCAL}:http")
            asking.wait(60)
            return time.monotonic() - began

        def connect() -> float:
            began = time.monotonic()
            dora.tproxy("connect")
            dora.run("sh", "-c", UNTIL, "sh", "web-", "sh", "-c", "curl -s --max-time 5 http://web/ | cut -c1-4")
            return time.monotonic() - began

        def leave() -> None:
            dora.tproxy("leave", "web")
            wait(pods.themselves, "the pods")

        def disconnect() -> None:
            dora.tproxy("disconnect")

        def quit_daemon() -> None:
            dora.tproxy("quit", check=False)

        def nothing() -> None:
            dora.tproxy("list")

        for name, act, undo in (("intercept", intercept, leave), ("connect", connect, disconnect)):
            print(f"tproxy {name}, daemon running: {repeated(act, undo, nothing)}", flush=True)
            print(f"tproxy {name}, after `tproxy quit`: {repeated(act, undo, quit_daemon)}", flush=True)

    def memory(self) -> None:
        """The node daemons', idle and with intercepts."""
        for _ in range(2):
            self.dora.tproxy("quit", check=False)
        print(f"node daemons, idle: {self.resident()}", flush=True)
        for number in range(PORTS):
            self.dora.tproxy("intercept", "many", "--port", f"{LOCAL}:{8000 + number}")
        print(f"node daemons, with {PORTS} intercepts, one pod each: {self.resident()}", flush=True)
        self.dora.tproxy("leave", "--all")

    def resident(self) -> str:
        """Resident memory of the node daemons, by node, and what is theirs alone."""
        told = []
        for name, node in self.cluster.nodes.items():
            pid = node.place.shell("pgrep -f '^python3 -m tproxy_node' | head -n 1").strip()
            status = node.place.shell('cat "/proc/$1/status" "/proc/$1/smaps_rollup"', pid)
            rss, private = (int(re.findall(rf"^{key}:\s+(\d+)", status, re.M)[0]) / 1024 for key in ("VmRSS", "Pss"))
            told.append(f"{name} {rss:.0f} MiB (proportional {private:.0f})")
        return ", ".join(told)

    def image(self) -> None:
        """The node daemon's."""
        path = path_of("node-image")
        unpacked = 0
        with tarfile.open(path) as archive:
            for member in archive:
                if member.size > 10_000 and (file := archive.extractfile(member)):
                    data = file.read()
                    unpacked += len(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
        print(f"image: {path.stat().st_size / 2**20:.0f} MiB packed, {unpacked / 1e6:.0f} MB unpacked", flush=True)

    def many_pods(self, count: int) -> None:
        """`count` pods of nothing but a pause on node1."""
        pod = make.template("quiet", [{"name": "app", "image": PAUSE, "imagePullPolicy": "Never"}])
        pod["spec"] = {**pod["spec"], "nodeName": "node1", "terminationGracePeriodSeconds": 0}
        pod["spec"]["containers"][0]["ports"] = [{"name": "http", "containerPort": 8080}]
        manifest = yaml.safe_dump(make.workload("Deployment", "quiet", pod, count))
        began = time.monotonic()
        self.cluster.apply(manifest, NAMESPACE)
        quiet = Pods(self.cluster, "quiet")
        wait(lambda: len(quiet.listed()) == count, f"{count} pods", 600)
        print(f"{count} pods run on node1 after {time.monotonic() - began:.0f} s", flush=True)
        pods = [(pod["metadata"]["uid"], pod["status"]["podIP"]) for pod in quiet.listed()]
        daemon = self.cluster.kubectl(
            "get", "pod", "-n", "tproxy-system", "-l", "app.kubernetes.io/component=node",
            "--field-selector=spec.nodeName=node1", "-o", "name",
        ).strip()  # fmt: skip
        command = ("exec", "-i", "-n", "tproxy-system", daemon, "--", "python3", "-c", DISCOVER)
        seen: dict[str, Any] = json.loads(self.cluster.kubectl(*command, text=json.dumps(pods)))
        print(f"network namespaces found: {seen['found']} in {median_of(seen['seconds'])}", flush=True)
        began = time.monotonic()
        self.dora.tproxy("intercept", "quiet", "--port", f"{LOCAL}:http")
        print(f"tproxy intercept of all of them: {time.monotonic() - began:.2f} s; {self.resident()}", flush=True)
        began = time.monotonic()
        self.dora.tproxy("leave", "quiet")
        print(f"tproxy leave: {time.monotonic() - began:.2f} s", flush=True)
        self.cluster.kubectl("delete", "deployment", "quiet", "-n", NAMESPACE, "--wait=false")


def main() -> None:
    """Everything, in a cluster of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pods", type=int, default=0, metavar="N", help="run N pods on one node as well")
    options = parser.parse_args()
    many = make.container("app")
    ports = [8000 + number for number in range(PORTS)]
    many["command"] = ["python", f"{APPS}/many.py", *(word for port in ports for word in ("--port", str(port)))]
    many["ports"] = [{"name": f"p{port}", "containerPort": port} for port in ports]
    many["readinessProbe"] = {"tcpSocket": {"port": ports[0]}, "periodSeconds": 1}
    with tempfile.TemporaryDirectory(prefix="tproxy-bench-") as directory, Cluster(Path(directory)) as cluster:
        print(f"up: {', '.join(f'{what} {took:.1f} s' for what, took in cluster.took.items())}", flush=True)
        Release(cluster.plane).install_on(cluster)
        manifests = [
            make.workload("Deployment", "web", make.template("web")),
            make.service("web"),
            make.workload("Deployment", "many", make.template("many", [many])),
        ]
        cluster.apply(yaml.safe_dump_all(manifests), NAMESPACE)
        for app in ("web", "many"):
            Pods(cluster, app).wait_ready(2)
        with Person(cluster, "dora") as dora:
            app = dora.start("app", "python", HELLO, "--port", str(LOCAL), POD="laptop")
            try:
                wait(lambda: dora.get(f"http://localhost:{LOCAL}/").startswith("laptop"), "the app")
                bench = Bench(cluster, dora)
                bench.image()
                bench.memory()
                bench.waiting()
                if options.pods:
                    bench.many_pods(options.pods)
            finally:
                app.kill()


if __name__ == "__main__":
    main()
