"""What a run mounts for itself: files of its own over the system's, and nothing over what must not be asked.

The C library asks a cache (nscd) or systemd-resolved before it reads `resolv.conf`, over sockets that a network
namespace does not keep apart: with those out of sight it does what its configuration says.
"""

import ctypes
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

RESOLV_CONF = "/etc/resolv.conf"
NSSWITCH = "/etc/nsswitch.conf"
HIDDEN = ("/run/nscd", "/var/run/nscd", "/var/lib/nscd", "/run/systemd/resolve")
"""Directories with sockets of resolvers, and with a cache that is read without asking."""

_BY_FILE = ("files", "dns", "myhostname")
"""What may answer for a host name: these read files, ask what `resolv.conf` names, or know the machine's own name."""

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_MOVE, MS_REC = 4096, 8192, 16384
MS_UNBINDABLE, MS_PRIVATE = 1 << 17, 1 << 18
_MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Plan:
    """`files` are real paths with what is to be read there, `hidden` real paths of directories to be seen empty."""

    files: Sequence[tuple[str, str]]
    hidden: Sequence[str]


def plan(
    resolv_conf: str, read: Callable[[str], str], realpath: Callable[[str], str], is_dir: Callable[[str], bool]
) -> Plan:
    """What to mount so that names are resolved by `resolv_conf` (its text). Raises OSError if `read` does."""
    files = [(realpath(RESOLV_CONF), resolv_conf)]
    try:
        before = read(NSSWITCH)
    except FileNotFoundError:
        before = ""
    if (after := without_other_resolvers(before)) != before:
        files.append((realpath(NSSWITCH), after))
    return Plan(tuple(files), tuple(dict.fromkeys(realpath(path) for path in HIDDEN if is_dir(path))))


def without_other_resolvers(nsswitch: str) -> str:
    """An nsswitch.conf(5) like the given one, in which host names are looked up by nothing but `_BY_FILE`."""
    lines = []
    for line in nsswitch.splitlines(keepends=True):
        name, colon, rest = line.partition(":")
        if colon and name.strip() == "hosts":
            sources = [word for word in rest.split("#")[0].replace("[", " [").split() if word in _BY_FILE]
            sources += ["dns"] * ("dns" not in sources)
            if sources != rest.split():
                line = f"{name}:{' ' * 10}{' '.join(sources)}\n"
        lines.append(line)
    return "".join(lines)


def apply(plan: Plan, scratch: str) -> None:
    """Mount it in the calling process' mount namespace; `scratch` is an empty directory. Raises OSError."""
    _empty(scratch)
    for directory in plan.hidden:
        _empty(directory)
    for number, (path, text) in enumerate(plan.files):
        if any(path.startswith(f"{directory}/") for directory in plan.hidden):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            _write(path, text)
            continue
        ours = os.path.join(scratch, str(number))
        _write(ours, text)
        mount(ours, path, None, MS_BIND)


def _write(path: str, text: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "w", encoding="utf-8") as file:
        file.write(text)


def _empty(directory: str) -> None:
    mount("tmpfs", directory, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0755,size=1m")


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    """mount(2) in the calling process' mount namespace. Raises OSError."""
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind, options)]
    if _libc.mount(*encoded[:3], flags, encoded[3]):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def unmount(target: str) -> None:
    """umount2(2), also while it is in use. Raises OSError."""
    if _libc.umount2(os.fsencode(target), _MNT_DETACH):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)
