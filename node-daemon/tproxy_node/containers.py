"""What containers of this node were given: the environment of their first process, and the files of their volumes.

Everything here blocks, and on a hostile container possibly for ever (a page fault that its user-space file system
answers when it likes): call it in a thread that nobody waits for without a limit.

Processes in the node's own mount namespace are not the container's, whatever their cgroup says: runtimes keep helpers
there (CRI-O's conmon), and what such a process has as its root is the node's.

A volume is read only if the kubelet filled it: such a directory has the link `..data` to the directory of the current
content, which the kubelet replaces as a whole; a single file of it (`subPath`) comes from such a directory. So a path
that the container has bent towards something else it can see, a hostPath perhaps, gives nothing.
"""

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tproxy.env.archive import MAX_FILES, MAX_TOTAL_BYTES, File, is_plain_path
from tproxy.env.records import MAX_ENVIRON_BYTES
from tproxy.model.pod import Container
from tproxy.netns.cgroup import parse_cgroup
from tproxy.netns.processes import ProcTree
from tproxy.netns.rooted import mounted, names_in, open_beneath, open_in_root, read_file

_DATA = "..data"
_KUBELETS_DIRECTORY = re.compile(r"/\.\.\d{4}_\d\d_\d\d_[^/]+(/|$)")
_KUBELETS_ENTRIES = 4  # `..data` and the directories behind it
_MAX_DEPTH = 16
_TRIES = 5
_MAX_KNOWN = 1024
_MAX_MOUNTINFO = 16 << 20
_LOCAL = frozenset({"btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "tmpfs", "xfs", "zfs"})
"""File systems on which the kubelet keeps volumes, and none that a server or a process answers for."""


class NoProcessError(Exception):
    """The container has no process on this node."""


class TooLargeError(Exception):
    """More than a laptop is sent."""


@dataclass(frozen=True, slots=True)
class Look:
    """The files of a container, and what they were read from: while `signature` stays the same, so do they."""

    files: tuple[File, ...]
    signature: tuple[object, ...]


class Containers:
    """The containers whose processes `proc_root` shows."""

    def __init__(self, proc_root: Path) -> None:
        self._root = proc_root
        self._proc = ProcTree(proc_root)
        self._first: dict[str, int] = {}  # where the first process of a container was found last

    def environ(self, container: Container) -> bytes:
        """The environment that its first process was started with, NUL-separated.

        Raises `NoProcessError`, `TooLargeError` and OSError.
        """
        with self._process(container.id) as process:
            descriptor = os.open("environ", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process)
            with os.fdopen(descriptor, "rb") as file:
                content = file.read(MAX_ENVIRON_BYTES + 1)
        if len(content) > MAX_ENVIRON_BYTES:
            raise TooLargeError(f"its environment is larger than {MAX_ENVIRON_BYTES >> 20} MiB")
        return content

    def signature(self, container: Container) -> tuple[object, ...]:
        """What tells whether `files` would say something new. Cheap. Raises `NoProcessError` and OSError."""
        with self._root_of(container.id) as (root, _):
            return _signature(root, container.given)

    def files(self, container: Container) -> Look:
        """What is in its volumes now. Raises `NoProcessError`, `TooLargeError` and OSError."""
        with self._root_of(container.id) as (root, process):
            mounts = _mounts(process)
            for _ in range(_TRIES):
                before = _signature(root, container.given)
                found = _Collected()
                for path in container.given:
                    _collect(root, path, mounts, found)
                # The kubelet may have replaced one of them meanwhile: a mixture of old and new is neither.
                if _signature(root, container.given) == before:
                    return Look(tuple(found.files), before)
        raise OSError("its files change faster than they can be read")

    @contextlib.contextmanager
    def _process(self, container_id: str) -> Iterator[int]:
        """The directory in /proc of the container's oldest process: it stays that process' and nobody else's."""
        for pid in self._candidates(container_id):
            try:
                descriptor = os.open(self._root / str(pid), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                if _container_of(descriptor) == container_id and not self._is_nodes(descriptor):
                    self._first[container_id] = pid
                    yield descriptor
                    return
            finally:
                os.close(descriptor)
        self._first.pop(container_id, None)
        raise NoProcessError

    def _is_nodes(self, process: int) -> bool:
        """Whether a process sees the node's file systems; raises OSError rather than guess."""
        try:
            node, its = os.stat(self._root / "1" / "ns" / "mnt"), os.stat("ns/mnt", dir_fd=process)
        except PermissionError:
            # Some machines keep even root from process 1. A mount has its number in one namespace only.
            with open(self._root / "1" / "mountinfo", "rb") as file:
                mounts = _mount_ids(file.fileno())
            descriptor = os.open("mountinfo", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process)
            try:
                return not mounts.isdisjoint(_mount_ids(descriptor))
            finally:
                os.close(descriptor)
        return (node.st_dev, node.st_ino) == (its.st_dev, its.st_ino)

    def _candidates(self, container_id: str) -> Iterator[int]:
        """Where the first process may be: where it was, then by looking at all processes, the oldest first."""
        if not container_id:
            return
        if (known := self._first.get(container_id)) is not None:
            yield known
        while len(self._first) >= _MAX_KNOWN:
            del self._first[next(iter(self._first))]
        found = self._proc.pods({container_id: container_id}, frozenset()).get(container_id)
        if found is not None:
            yield from (one.pid for one in sorted(one for members in found.by_netns.values() for one in members))

    @contextlib.contextmanager
    def _root_of(self, container_id: str) -> Iterator[tuple[int, int]]:
        """The container's root directory, and its first process."""
        with self._process(container_id) as process:
            root = os.open("root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=process)
            try:
                yield root, process
            finally:
                os.close(root)


def _mount_ids(descriptor: int) -> frozenset[int]:
    """The numbers of the mounts in an open mountinfo (proc_pid_mountinfo(5)). Raises OSError."""
    read = bytearray()
    while chunk := os.read(descriptor, 1 << 20):
        read += chunk
        if len(read) > _MAX_MOUNTINFO:
            raise OSError(errno.EFBIG, "too many mounts to look through")
    return frozenset(int(line.split(maxsplit=1)[0]) for line in bytes(read).splitlines() if line)


def _container_of(process: int) -> str:
    try:
        place = parse_cgroup(_text(process, "cgroup"))
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return place.container if place is not None else ""


def _mounts(process: int) -> dict[int, tuple[str, str]]:
    """What a process' mounts are of: by number, the file system and the part of it."""
    mounts = {}
    for line in _text(process, "mountinfo").splitlines():
        fields = line.split(" ")
        mounts[int(fields[0])] = (fields[fields.index("-", 6) + 1], fields[3])
    return mounts


def _text(process: int, name: str) -> str:
    descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=process)
    with os.fdopen(descriptor, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


class _Collected:
    """What has been found so far, within the limits."""

    def __init__(self) -> None:
        self.files: list[File] = []
        self._left = MAX_TOTAL_BYTES
        self._looks = 2 * MAX_FILES

    def look(self) -> None:
        """One more entry is looked at: links that lead in circles have very many."""
        self._looks -= 1
        if self._looks < 0:
            raise TooLargeError(f"it has more than {MAX_FILES} files")

    def add(self, path: str, named: int) -> None:
        """Read a file."""
        content = read_file(named, self._left + 1)
        self._left -= len(content)
        if self._left < 0:
            raise TooLargeError(f"its files are larger than {MAX_TOTAL_BYTES >> 20} MiB together")
        if len(self.files) >= MAX_FILES:
            raise TooLargeError(f"it has more than {MAX_FILES} files")
        self.files.append(File(path, content, bool(os.fstat(named).st_mode & 0o111)))


@contextlib.contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _signature(root: int, paths: Sequence[str]) -> tuple[object, ...]:
    seen: list[object] = []
    for path in paths:
        try:
            with _closing(open_in_root(root, path)) as named:
                at = os.fstat(named)
                seen.append((at.st_dev, at.st_ino, at.st_mtime_ns))
                if stat.S_ISDIR(at.st_mode):
                    seen.append(os.readlink(_DATA, dir_fd=named))
        except OSError as error:
            seen.append(error.errno)
    return tuple(seen)


def _collect(root: int, path: str, mounts: dict[int, tuple[str, str]], found: _Collected) -> None:
    """Add what is mounted at `path`, unless it is something else than the kubelet put there."""
    plain = os.path.normpath(path)
    if not is_plain_path(plain):
        return
    try:
        named = open_in_root(root, path)
    except OSError:
        return  # the container has hidden it from itself
    with _closing(named):
        place = mounted(named)
        kind, part = mounts.get(place.mount, ("", ""))
        if not place.is_root or kind not in _LOCAL:
            return
        if not stat.S_ISDIR(os.fstat(named).st_mode):
            if _KUBELETS_DIRECTORY.search(part):
                found.add(plain, named)
            return
        if _is_kubelets(named) or _KUBELETS_DIRECTORY.search(part):
            _collect_directory(named, "", plain, found, _MAX_DEPTH)


def _is_kubelets(named: int) -> bool:
    try:
        return _KUBELETS_DIRECTORY.search(f"/{os.readlink(_DATA, dir_fd=named)}") is not None
    except OSError:
        return False


def _collect_directory(volume: int, inside: str, path: str, found: _Collected, depth: int) -> None:
    """Add the files of the directory `inside` a volume, which is called `path` in the container."""
    with _closing(open_beneath(volume, inside or ".")) as directory:
        names = sorted(names_in(directory, MAX_FILES + _KUBELETS_ENTRIES + 1))
    if len(names) > MAX_FILES + _KUBELETS_ENTRIES:
        raise TooLargeError(f"it has more than {MAX_FILES} files")
    for name in names:
        if not inside and name.startswith(".."):
            continue  # the kubelet's own: every file is reached by its name
        found.look()
        below = f"{inside}/{name}" if inside else name
        try:
            named = open_beneath(volume, below)
        except OSError:
            continue  # it leads elsewhere
        with _closing(named):
            kind = os.fstat(named).st_mode
            if stat.S_ISREG(kind):
                found.add(f"{path}/{name}", named)
            elif stat.S_ISDIR(kind) and depth:
                _collect_directory(volume, below, f"{path}/{name}", found, depth - 1)
