"""The processes of pods, by one pass over a node's /proc, which may be the host's mounted somewhere else."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from tproxy.netns.cgroup import PodCgroup, parse_cgroup
from tproxy.netns.handle import Netns, NetnsId
from tproxy.netns.rooted import open_root

# What reading about a process that is just ending raises; ESRCH is a ProcessLookupError.
_GONE = (FileNotFoundError, ProcessLookupError)
_START_TIME = 22 - 3  # the field of /proc/PID/stat, counted from the one after the command's name


@dataclass(frozen=True, slots=True, order=True)
class Process:
    """`start` is in clock ticks since boot, so that processes sort by age, the oldest first."""

    start: int
    pid: int


@dataclass(slots=True)
class PodProcesses:
    """What a pass found of one pod."""

    by_netns: dict[NetnsId, list[Process]] = field(default_factory=dict)
    ignored: int = 0  # in the node's network, as conmon is, or in our own
    denied: int = 0  # whose namespace we may not look at

    def by_age(self) -> list[tuple[NetnsId, list[Process]]]:
        """Each namespace with its processes, the oldest first in both: who only visits a namespace is young."""
        pairs = [(netns, sorted(processes)) for netns, processes in self.by_netns.items()]
        return sorted(pairs, key=lambda pair: pair[1][0])


class ProcTree:
    """A proc file system."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        # Joined as text: with pathlib the joining would take as long as the reading.
        self._root = os.fspath(root)

    def pods(self, names: Mapping[str, str], ignored: frozenset[NetnsId]) -> dict[str, PodProcesses]:
        """The processes of pods, in one pass; raises OSError if the tree cannot be read.

        `names` maps what a cgroup may call a pod (its UID, a static pod's configuration hash, the id of one of its
        containers) to the key in the result. Namespaces in `ignored` are only counted.
        """
        found: dict[str, PodProcesses] = {}
        places: dict[str, PodCgroup | None] = {}  # all processes of a container have the same text
        for pid in self._pids():
            try:
                text = self._read(pid, "cgroup")
                if text not in places:
                    places[text] = parse_cgroup(text)
                place = places[text]
                if place is not None and (key := names.get(place.pod) or names.get(place.container)):
                    self._add(found.setdefault(key, PodProcesses()), pid, ignored)
            except _GONE:
                continue
        return found

    def netns_id(self, pid: str) -> NetnsId:
        """Which namespace a process is in. Raises OSError."""
        status = os.stat(f"{self._root}/{pid}/ns/net")
        return NetnsId(status.st_dev, status.st_ino)

    def open_netns(self, processes: list[Process], expected: NetnsId) -> Netns | None:
        """The namespace `expected` through one of its processes; None if all have ended or moved."""
        for process in processes:
            try:
                netns = Netns.open(f"{self._root}/{process.pid}/ns/net")
            except OSError:
                continue
            if netns.id == expected:
                return netns
            netns.close()
        return None

    def open_root(self, process: Process, expected: NetnsId) -> int | None:
        """A descriptor of the process' root directory; None if it has ended or left the namespace `expected`."""
        try:
            root = open_root(f"{self._root}/{process.pid}/root")
        except OSError:
            return None
        try:
            # Looked at after opening: a process that has the number by now would be another one.
            if self.netns_id(str(process.pid)) == expected:
                return root
        except OSError:
            pass
        os.close(root)
        return None

    def _pids(self) -> Iterator[str]:
        return (name for name in os.listdir(self._root) if name.isdecimal())

    def _read(self, pid: str, name: str) -> str:
        # Names of commands and groups may be any bytes; those that matter to us are ASCII.
        with open(f"{self._root}/{pid}/{name}", encoding="ascii", errors="replace") as file:
            return file.read()

    def _add(self, pod: PodProcesses, pid: str, ignored: frozenset[NetnsId]) -> None:
        try:
            netns = self.netns_id(pid)
        except PermissionError:
            pod.denied += 1
            return
        if netns in ignored:
            pod.ignored += 1
            return
        # The command's name stands in parentheses and may contain any, spaces too.
        fields = self._read(pid, "stat").rpartition(")")[2].split()
        pod.by_netns.setdefault(netns, []).append(Process(int(fields[_START_TIME]), int(pid)))
