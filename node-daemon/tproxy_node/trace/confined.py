"""What a process of the node daemon's allows itself, so that it can do the daemon no harm."""

import contextlib
import ctypes
import os
import resource
import signal
from pathlib import Path

from tproxy.errors import TproxyError
from tproxy.trace import headers
from tproxy.trace.headers import Headers
from tproxy.trace.tracepoints import TRACEFS

_PR_SET_PDEATHSIG = 1
_CLONE_NEWNS = 0x00020000
_MS_REC, _MS_PRIVATE, _MS_NOSUID, _MS_NODEV = 16384, 1 << 18, 2, 4
_NICE = 10
_UNPACKED = "size=192m,mode=0700"
_UNPACKED_AT = Path("/tmp")  # noqa: S108 - in a mount namespace of our own

_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> None:
    """Be killed when whoever started this ends, however that happens."""
    parent = os.getppid()
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it has ended in between


def limit(memory: int) -> None:
    """Have no more than so many bytes of memory of our own, and be the first to go where memory, or time, is short.

    Memory of our own only: shared libraries are files that the kernel may drop. Whoever asks for more fails alone.
    """
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    os.nice(_NICE)


def see_tracepoints() -> None:
    """Mount tracefs where nobody but this process sees it, if it is not mounted. Raises TproxyError."""
    _own_mounts()
    if not (TRACEFS / "events").exists():
        _mount("tracefs", TRACEFS, "tracefs", "mode=0700")


def kernel_headers() -> Headers:
    """Some. Those that only the kernel itself carries are unpacked in memory, for this process. Raises TproxyError."""
    found = headers.find(os.uname().release)
    packed = headers.archive()
    if packed is None:
        if found is None:
            raise headers.LACKING
        return found
    if found is not None and os.uname().release in str(found.generated):
        return found
    _own_mounts()
    _mount("tmpfs", _UNPACKED_AT, "headers", _UNPACKED)
    return headers.unpack(packed, _UNPACKED_AT)


def _own_mounts() -> None:
    if _libc.unshare(_CLONE_NEWNS) or _libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None):
        raise _refused("have a mount namespace of its own")


def _mount(kind: str, place: Path, source: str, options: str) -> None:
    arguments = (source.encode(), os.fsencode(place), kind.encode(), _MS_NOSUID | _MS_NODEV, options.encode())
    if _libc.mount(*arguments):
        raise _refused(f"mount {kind} at {place}")


def _refused(what: str) -> TproxyError:
    reason = os.strerror(ctypes.get_errno())
    return TproxyError(f"the process that traces may not {what}: {reason}", "it needs the capability SYS_ADMIN")
