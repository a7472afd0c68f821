"""Reading a file as a container's processes see it, without following anything out of the container."""

import ctypes
import os
import stat
import struct

_OPENAT2 = 437  # the same number on every architecture
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_IN_ROOT = 0x10
_HOW = struct.Struct("=QQQ")  # struct open_how: flags, mode, resolve

_libc = ctypes.CDLL(None, use_errno=True)


def open_root(path: str) -> int:
    """A descriptor of a root directory such as `/proc/PID/root`. Raises OSError."""
    return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def open_in_root(root: int, path: str, flags: int = os.O_RDONLY) -> int:
    """Open `path` with `root` as `/`: symbolic links and `..` stay below it, links of procfs are refused.

    Raises OSError.
    """
    how = ctypes.create_string_buffer(
        _HOW.pack(flags | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    )
    found = _libc.syscall(_OPENAT2, root, os.fsencode(path), how, ctypes.c_size_t(_HOW.size))
    if found < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return int(found)


def read_in_root(root: int, path: str, limit: int) -> bytes:
    """The first `limit` bytes of a regular file below `root`; OSError for anything else."""
    descriptor = open_in_root(root, path)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{path} is no regular file")
        found = b""
        while len(found) < limit and (more := os.read(descriptor, limit - len(found))):
            found += more
        return found
    finally:
        os.close(descriptor)
