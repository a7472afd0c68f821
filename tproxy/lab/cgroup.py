"""The lab's cgroups. They name processes and end them together; no controller is switched on.

Version 2 only: the pure hierarchy or the `unified` part of a hybrid one.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tproxy.errors import TproxyError


@cache
def mount_point() -> Path:
    """Where cgroup2 is mounted. Raises TproxyError if it is not."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, source = line.partition(" - ")
        if source.startswith("cgroup2 "):
            return Path(mount.split()[4].replace("\\040", " "))
    raise TproxyError(
        "no cgroup2 hierarchy is mounted, and the lab ends its processes through one",
        "`mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified`",
    )


def leave(root: Path) -> None:
    """Move the calling process out of `root`, so that it survives the end of what is below."""
    if os.getpid() in set(processes(root)):
        (root.parent / "cgroup.procs").write_text("0")


def processes(root: Path) -> Iterator[int]:
    """The processes in `root` and below it."""
    for directory, _, _ in os.walk(root):
        # A group may go, and a process's move may make the kernel answer ENODEV, between the two steps.
        with contextlib.suppress(OSError):
            yield from map(int, Path(directory, "cgroup.procs").read_text().split())


def kill(root: Path) -> None:
    """Send SIGKILL to every process in `root` and below it."""
    try:
        (root / "cgroup.kill").write_text("1")
    except FileNotFoundError:
        # Kernels before 5.14 have no cgroup.kill; a root that is gone has no processes.
        for pid in processes(root):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def end(root: Path, timeout: float = 5.0) -> None:
    """Kill all processes in `root`, wait for their end, remove the groups. Raises TproxyError after `timeout` s."""
    deadline = time.monotonic() + timeout
    while True:
        kill(root)
        if not any(True for _ in processes(root)) and _removed(root):
            return
        if time.monotonic() > deadline:
            left = ", ".join(map(str, processes(root))) or "none, but a group is busy"
            raise TproxyError(f"cannot end all processes in {root}; left: {left}", "look at them with `ps -fp PID`")
        time.sleep(0.002)


def _removed(root: Path) -> bool:
    for directory, _, _ in os.walk(root, topdown=False):
        try:
            os.rmdir(directory)
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return True
