"""Where a node's pods have their cgroups: in this machine's own hierarchies, below a directory with the node's name.

They are what the kernel keeps beyond the last process, so somebody else removes them: a process that waits for this one
to end, however it ends.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path

# Reads until there is nobody to write, then waits for the processes, which are ending.
_SWEEP = """
trap '' HUP INT TERM
read -r _ || :
for try in $(seq 300); do
    left=
    for directory; do
        find "$directory" -depth -type d -exec rmdir {} + 2>/dev/null
        [ ! -d "$directory" ] || left=yes
    done
    [ -n "$left" ] || exit 0
    sleep 0.1
done
exit 1
"""


class Cgroups:
    """The cgroups of nodes: `/PREFIX/NODE` in every hierarchy. Call `close` when their processes have ended."""

    def __init__(self, prefix: str, nodes: Sequence[str]) -> None:
        self._prefix = prefix
        self._roots = [mount / prefix for mount in hierarchies()]
        command = ["setsid", "sh", "-c", _SWEEP, "sh", *map(str, self._roots)]
        self._sweeper = subprocess.Popen(command, stdin=subprocess.PIPE)
        for root in self._roots:
            for directory in (root, *(root / node for node in nodes)):
                directory.mkdir()
                # Of version 1: nothing runs in a group that may use no processor.
                for file in ("cpuset.cpus", "cpuset.mems"):
                    if (directory / file).exists() and not (directory / "cgroup.controllers").exists():
                        (directory / file).write_text((directory.parent / file).read_text())

    def of(self, node: str) -> str:
        """What is the kubelet's `cgroupRoot`."""
        return f"/{self._prefix}/{node}"

    def close(self) -> None:
        """Remove them. Raises AssertionError if that takes too long."""
        assert self._sweeper.stdin is not None
        self._sweeper.stdin.close()
        assert self._sweeper.wait(60) == 0, f"cgroups stay: {[str(root) for root in self._roots if root.exists()]}"


def hierarchies() -> list[Path]:
    """Where cgroups are mounted here, of version 1 and 2."""
    lines = (line.split() for line in Path("/proc/mounts").read_text().splitlines())
    return [Path(where) for _, where, kind, *_ in lines if kind in ("cgroup", "cgroup2")]
