"""A cluster whose process is killed leaves nothing on this machine."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cgroups import hierarchies
from tests.e2e.control_plane import ROOT
from tests.e2e.person import wait

_RUN = """
import sys, time
from pathlib import Path
from tests.e2e.cluster import Cluster
with Cluster(Path(sys.argv[1])) as cluster:
    places = [cluster.laptop, cluster.user, *(node.place for node in cluster.nodes.values())]
    print(*(place.pid for place in places), flush=True)
    time.sleep(600)
"""
SECONDS = 30.0


@pytest.fixture
def running(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process with a cluster of its own."""
    path = os.pathsep.join(str(ROOT / part) for part in ("", "cli", "node-daemon"))
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-c", _RUN, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        yield process
        process.kill()


def network() -> str:
    """What this machine itself has of links, routes and rules."""
    commands = ("ip link", "ip route show table all", "ip rule", "nft list ruleset")
    return "".join(subprocess.run(line.split(), capture_output=True, text=True, check=True).stdout for line in commands)


def members(namespaces: set[str]) -> list[str]:
    """Processes in any of these, with their states. What only waits for somebody to ask how it ended is none."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            inside = {os.readlink(process / "ns" / kind) for kind in ("net", "mnt")}
            _, _, words = (process / "stat").read_text().rpartition(") ")
            if inside & namespaces and words[0] != "Z":
                found.append(f"{process.name} {words[0]} {(process / 'cmdline').read_text()[:200]}")
        except OSError:
            continue
    return found


def groups(pid: int) -> list[Path]:
    """The cgroups of a cluster, by the process that made it."""
    return [path for root in hierarchies() for path in root.glob(f"tproxy-e2e-{pid}-*")]


def test_killed(running: "subprocess.Popen[str]") -> None:
    before = network()
    assert running.stdout is not None
    pids = running.stdout.readline().split()
    assert len(pids) == 4
    made = {os.readlink(f"/proc/{pid}/ns/{kind}") for pid in pids for kind in ("net", "mnt")}
    assert len(made) == 8
    assert len(members(made)) > 8
    pods = [path for root in groups(running.pid) for path in root.glob("node*/kubepods/**/pod*")]
    assert pods
    assert network() == before

    running.send_signal(signal.SIGKILL)
    running.wait()
    wait(lambda: not groups(running.pid), "no cgroups", SECONDS)
    deadline = time.monotonic() + SECONDS
    while left := members(made):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    assert network() == before
