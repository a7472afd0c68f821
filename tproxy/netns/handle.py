"""An open network namespace.

Identity is (device, inode) of the namespace file, never a path: paths are reused, an open descriptor keeps the
namespace alive.
"""

import contextlib
import ctypes
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass

CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class NetnsId:
    """What names a network namespace on this machine."""

    device: int
    inode: int


def _setns(fd: int) -> None:
    # os.setns exists from Python 3.12 on.
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def unshare() -> None:
    """Move the calling thread to a new, empty network namespace. Raises OSError."""
    if _libc.unshare(CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Netns:
    """Owns a descriptor of a network namespace until `close`."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        status = os.fstat(fd)
        self.id = NetnsId(status.st_dev, status.st_ino)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "Netns":
        """Open `/proc/PID/ns/net` or a named namespace's file. Raises OSError."""
        return cls(os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    @classmethod
    def current(cls) -> "Netns":
        """The calling thread's own."""
        return cls.open("/proc/thread-self/ns/net")

    def fileno(self) -> int:
        """The descriptor, still owned by this object."""
        return self._fd

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Run a synchronous block with the calling thread inside the namespace; nothing may be awaited within.

        Sockets made inside belong to the namespace for good. If the way back fails the process aborts: a daemon
        whose main thread is lost in a pod's namespace must not go on, and its death gives every port back.
        """
        with contextlib.closing(Netns.current()) as home:
            _setns(self._fd)
            try:
                yield
            finally:
                try:
                    _setns(home.fileno())
                except OSError:
                    os.abort()

    def socket(self, family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
        """A socket inside the namespace."""
        with self.entered():
            return socket.socket(family, kind | socket.SOCK_CLOEXEC)

    def close(self) -> None:
        """Release the descriptor. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
