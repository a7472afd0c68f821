"""Why the kernel will not steer, in words for people."""

import errno
import os
import re

from tproxy.errors import DeniedError, TproxyError
from tproxy.steer.libbpf import BpfError

OLDEST_KERNEL = (5, 9)
_SHOWN_LINES = 6
_PLAIN = (errno.EPERM, errno.EACCES, errno.EMFILE, errno.ENFILE)
_LOG = "see the daemon's log with `--log-level debug`"


def explain_plainly(error: OSError, doing: str) -> TproxyError:
    """The error for people when something failed; they read "cannot `doing`"."""
    if error.errno in (errno.EPERM, errno.EACCES):
        return DeniedError(
            f"cannot {doing}: the kernel denies it ({error.strerror})",
            "run the node daemon as root with CAP_SYS_ADMIN and CAP_NET_ADMIN; in a container see `tproxy doctor`",
        )
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return TproxyError(
            f"cannot {doing}: too many open files",
            "raise the limit, `ulimit -n 65536` or LimitNOFILE= in the unit",
        )
    return TproxyError(f"cannot {doing}: {error.strerror or error}", _LOG)


def explain(error: OSError, doing: str, release: str | None = None) -> TproxyError:
    """The same for what needs BPF. `release` is the kernel's, by default this one's."""
    release = os.uname().release if release is None else release
    if error.errno in _PLAIN and not _verifier_spoke(error):
        return explain_plainly(error, doing)
    if _version(release) < OLDEST_KERNEL:
        return TproxyError(
            f"cannot {doing}: Linux {release} has no sk_lookup programs",
            "a node needs Linux 5.9 or newer; check with `uname -r`",
        )
    if error.errno == errno.ENOSYS:
        return TproxyError(
            f"cannot {doing}: this kernel is built without BPF",
            "it needs CONFIG_BPF_SYSCALL; check with `zgrep BPF /proc/config.gz`",
        )
    if isinstance(error, BpfError) and error.lines:
        said = " | ".join(error.lines[-_SHOWN_LINES:])
        return TproxyError(f"cannot {doing}: {error.strerror or error}; the kernel said: {said}", _LOG)
    return explain_plainly(error, doing)


def _verifier_spoke(error: OSError) -> bool:
    """EACCES is also the verifier's answer to a program it does not like, then with a log."""
    return isinstance(error, BpfError) and error.errno == errno.EACCES and bool(error.lines)


def _version(release: str) -> tuple[int, int]:
    numbers = re.match(r"(\d+)\.(\d+)", release)
    return (int(numbers[1]), int(numbers[2])) if numbers else OLDEST_KERNEL
