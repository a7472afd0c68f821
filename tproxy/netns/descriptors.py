"""Other processes' sockets, borrowed for a moment.

A borrowed descriptor must be closed soon: while it is open, a connection that its owner closes does not end.
"""

import contextlib
import ctypes
import os
import socket
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from tproxy.netns.handle import NetnsId

_PIDFD_OPEN = 434
_PIDFD_GETFD = 438  # since Linux 5.6

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A socket as a process has it. `inode` is the socket's."""

    pid: int
    number: int
    inode: int

    def borrow(self) -> socket.socket:
        """The socket itself, for the caller to close. Raises OSError, ProcessLookupError if it is no longer there."""
        pidfd = _call(_PIDFD_OPEN, self.pid, 0)
        try:
            fd = _call(_PIDFD_GETFD, pidfd, self.number, 0)
        finally:
            os.close(pidfd)
        if os.fstat(fd).st_ino != self.inode:
            os.close(fd)
            raise ProcessLookupError(f"process {self.pid} has another descriptor {self.number} by now")
        return socket.socket(fileno=fd)


def find(proc: Path, netns: NetnsId, inodes: Collection[int]) -> dict[int, Descriptor]:
    """By inode, who has these sockets: processes in `netns` as `proc` shows them. Takes its time on a full node."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[int, Descriptor] = {}
    for process in _processes(proc, netns):
        if len(found) == len(wanted):
            break
        try:
            entries = list(os.scandir(process / "fd"))
        except OSError:
            continue  # it has just ended
        for entry in entries:
            try:
                inode = wanted.get(os.readlink(entry.path))
            except OSError:
                continue
            if inode is not None and inode not in found:
                found[inode] = Descriptor(int(process.name), int(entry.name), inode)
    return found


def _processes(proc: Path, netns: NetnsId) -> Iterator[Path]:
    for entry in os.scandir(proc):
        if not entry.name.isdecimal():
            continue
        process = Path(entry.path)
        try:
            status = os.stat(process / "ns" / "net")
        except OSError:
            continue
        if NetnsId(status.st_dev, status.st_ino) == netns:
            yield process


def _call(number: int, *arguments: int) -> int:
    result = int(_libc.syscall(number, *arguments))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def own_sockets() -> set[int]:
    """The inodes of this process's sockets: a microsecond for each descriptor that it has."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # closed meanwhile, as the directory itself has been
            status = os.fstat(int(name))
            if stat.S_ISSOCK(status.st_mode):
                found.add(status.st_ino)
    return found
