"""`lab up` and `lab down`: what is there in between, and that nothing is left, whatever crashed."""

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tproxy.lab import cgroup


def traces(lab: Any) -> dict[str, object]:
    """Whatever on this machine carries the lab's name."""
    name = lab.layout.name
    processes = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                # The dead stay listed until init has looked at them.
                dead = (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
                if not dead and f"tproxy-lab-{name}" in (entry / "cgroup").read_text():
                    processes.append(entry.name)
    return {
        "namespaces": lab.layout.present_netns(),
        "mounts": [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f"-{name}" in line],
        "cgroups": [str(path) for path in cgroup.mount_point().glob(f"tproxy-lab-{name}*")],
        "files": [str(path) for path in (*Path("/run").glob(f"*/{name}"), *Path("/etc").glob(f"netns/*{name}*"))],
        "processes": processes,
    }


def host() -> dict[str, str]:
    """The host's own network settings."""
    commands = ("ip -o link", "ip -o addr", "ip rule", "ip route show table all", "ip -6 route", "nft list ruleset")
    settings = {line: subprocess.check_output(line.split(), text=True) for line in commands}
    for setting in ("ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv4/conf/all/rp_filter"):
        settings[setting] = Path("/proc/sys/net", setting).read_text()
    settings["hostname"] = Path("/proc/sys/kernel/hostname").read_text()
    settings["resolv.conf"] = Path("/etc/resolv.conf").read_text()
    return settings


def test_down_leaves_nothing_and_the_host_is_never_touched(lab: Any, own_lab: Any) -> None:
    before = host()
    mine = own_lab("--without-daemons")
    mine.apply(mine.server("web"))
    left_running = mine.start("exec", "laptop", "--", "sleep", "1000")
    command = Path(f"/proc/{left_running.pid}/comm")
    mine.wait(lambda: command.read_text() == "sleep\n", "the command on the laptop")
    # Two labs have the same addresses and do not meet.
    assert mine.status()["nodes"][0]["addresses"] == lab.status()["nodes"][0]["addresses"]
    assert host() == before
    assert all(traces(mine)[what] for what in ("namespaces", "mounts", "cgroups", "files", "processes"))

    assert "down in" in mine.run("down").stdout
    assert not any(traces(mine).values()), traces(mine)
    assert left_running.wait(5) == -signal.SIGKILL
    assert host() == before
    assert lab.status()["state"] == "up"
    assert "is not up" in mine.run("down").stderr


def test_up_twice_says_that_it_is_up(lab: Any) -> None:
    again = lab.run("up", check=False)
    assert again.returncode == 1
    assert "is already up" in again.stderr
    assert f"tproxy lab down --name {lab.layout.name}" in again.stderr
    assert lab.status()["state"] == "up"


def test_a_dead_server_is_noticed_and_removed(own_lab: Any) -> None:
    mine = own_lab("--without-daemons", "--nodes", "1")
    mine.apply(mine.server("web"))
    os.kill(mine.status()["apiServer"]["pid"], signal.SIGKILL)
    mine.wait(lambda: mine.status()["state"] == "crashed", "the crash in the status")
    said = mine.run("status", check=False)
    assert said.returncode == 3
    assert "the lab server has died" in said.stderr
    assert "tproxy lab down" in said.stderr
    again = mine.run("up", check=False)
    assert again.returncode == 1
    assert "has crashed" in again.stderr
    mine.run("down")
    assert not any(traces(mine).values()), traces(mine)


def appears(lab: Any, what: str) -> bool:
    """How far `up` has come."""
    return bool(
        {
            "state": lab.layout.state.exists(),
            "server": lab.layout.place_cgroup("server").exists(),
            "namespaces": len(lab.layout.present_netns()) > 1,
            "holders": lab.layout.place_cgroup("laptop").exists(),
            "api": lab.layout.api_socket.exists(),
        }[what]
    )


@pytest.mark.parametrize("point", ["state", "server", "namespaces", "holders", "api"])
def test_a_crash_in_the_middle_of_up_leaves_nothing_after_down(own_lab: Any, point: str) -> None:
    mine = own_lab(None)
    up = mine.start("up", "--without-daemons", stderr=subprocess.DEVNULL)
    try:
        mine.wait(lambda: appears(mine, point) or up.poll() is not None, point)
    finally:
        up.kill()
        up.wait()
    for pid in list(cgroup.processes(mine.layout.place_cgroup("server"))):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    mine.run("down")
    assert not any(traces(mine).values()), traces(mine)
