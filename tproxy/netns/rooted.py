"""Opening files of a file tree that may be hostile, so that nothing outside of it is ever reached: openat2(2).

The tree is another process' root. Its owner can put symbolic links, `..`, mounts, devices and pipes anywhere, and
change them at any moment, so no path is looked at first and opened later: the kernel resolves it with the limits given,
to a descriptor that only names what was found (O_PATH), and what that is decides whether it is opened at all. Needs
Linux 5.6; ENOSYS before.
"""

import ctypes
import os
import stat
import struct
from dataclasses import dataclass

_SYS_OPENAT2 = 437  # the same on every architecture
_OPEN_HOW = struct.Struct("=QQQ")  # flags, mode, resolve

_RESOLVE_NO_XDEV = 0x01
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_BENEATH = 0x08
_RESOLVE_IN_ROOT = 0x10

_AT_EMPTY_PATH = 0x1000
_AT_STATX_DONT_SYNC = 0x4000
_STATX_MNT_ID = 0x1000  # Linux 5.8
_STATX_ATTR_MOUNT_ROOT = 0x2000  # Linux 5.8
_STATX_BYTES = 256

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Mounted:
    """Where something is: on which mount, and whether it is what is mounted there."""

    mount: int
    is_root: bool


def open_root(path: str) -> int:
    """A descriptor of a root directory such as `/proc/PID/root`. Raises OSError."""
    return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def open_in_root(root: int, path: str) -> int:
    """A descriptor (O_PATH) of `path` as a process with the directory `root` as its root would find it.

    Absolute symbolic links and `..` stay inside. Raises OSError.
    """
    return _openat2(root, path, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)


def open_beneath(directory: int, path: str) -> int:
    """A descriptor (O_PATH) of `path` below `directory`, on the same mount. What leads out of it raises OSError."""
    return _openat2(directory, path, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS | _RESOLVE_NO_XDEV)


def read_file(named: int, limit: int) -> bytes:
    """The content of the regular file that the O_PATH descriptor `named` names, `limit` bytes at most.

    Raises OSError if it is something else, above all a pipe or device, which opening alone could make act or hang.
    """
    if not stat.S_ISREG(os.fstat(named).st_mode):
        raise OSError("not a regular file")
    descriptor = _reopen(named, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        chunks, left = [], limit
        while left > 0 and (chunk := os.read(descriptor, min(left, 1 << 20))):
            chunks.append(chunk)
            left -= len(chunk)
        return b"".join(chunks)
    finally:
        os.close(descriptor)


def read_in_root(root: int, path: str, limit: int) -> bytes:
    """The first `limit` bytes of the regular file `path` below `root`; OSError for anything else."""
    named = open_in_root(root, path)
    try:
        return read_file(named, limit)
    finally:
        os.close(named)


def names_in(named: int, limit: int) -> list[str]:
    """The entries of the directory that the O_PATH descriptor `named` names, `limit` at most. Raises OSError."""
    descriptor = _reopen(named, os.O_RDONLY | os.O_DIRECTORY)
    names = []
    try:
        with os.scandir(descriptor) as entries:
            for entry in entries:
                names.append(entry.name)
                if len(names) >= limit:
                    break
    finally:
        os.close(descriptor)
    return names


def mounted(named: int) -> Mounted:
    """On which mount the file of a descriptor is. Raises OSError."""
    buffer = ctypes.create_string_buffer(_STATX_BYTES)
    flags = _AT_EMPTY_PATH | _AT_STATX_DONT_SYNC
    if _libc.statx(named, b"", flags, _STATX_MNT_ID, buffer) != 0:
        raise _error()
    attributes, known = struct.unpack_from("=Q", buffer, 8)[0], struct.unpack_from("=Q", buffer, 56)[0]
    if not known & _STATX_ATTR_MOUNT_ROOT:
        raise OSError("the kernel does not say what is mounted where (Linux 5.8)")
    return Mounted(struct.unpack_from("=Q", buffer, 144)[0], bool(attributes & _STATX_ATTR_MOUNT_ROOT))


def _openat2(directory: int, path: str, resolve: int) -> int:
    how = ctypes.create_string_buffer(_OPEN_HOW.pack(os.O_PATH | os.O_CLOEXEC, 0, resolve), _OPEN_HOW.size)
    encoded = os.fsencode(path)
    descriptor = _libc.syscall(
        ctypes.c_long(_SYS_OPENAT2),
        ctypes.c_int(directory),
        ctypes.c_char_p(encoded),
        how,
        ctypes.c_size_t(_OPEN_HOW.size),
    )
    if descriptor < 0:
        raise _error()
    return int(descriptor)


def _reopen(named: int, flags: int) -> int:
    # Through our own /proc: the descriptor is followed, no path is walked again.
    return os.open(f"/proc/self/fd/{named}", flags | os.O_CLOEXEC)


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
