"""How a path of the container's comes to be there for the command, on a laptop that has no such path.

    exists                          what is to be seen is mounted over it
    its directory is the user's     an empty one is made for that, and removed in the end
    its directory is the system's   a stand-in is mounted over the nearest directory that there is: it leads to all that
                                    was in there, and has the missing part as well

Nobody but the run sees any of it. What the command could not work without is never covered.
"""

import os
import stat
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass

from tproxy_cli.run.mounts import (
    MS_BIND,
    MS_MOVE,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    MS_UNBINDABLE,
    mount,
    unmount,
)

MOST_ENTRIES = 4096
"""Of a directory that gets a stand-in."""

_KEPT = {os.ST_NOSUID: MS_NOSUID, os.ST_NODEV: MS_NODEV, os.ST_NOEXEC: MS_NOEXEC}


class NotPossibleError(Exception):
    """Why something cannot be seen at a path, as the end of a sentence."""


@dataclass(frozen=True, slots=True)
class Graft:
    """What is to be done for one path. `made` are directories to be made, outermost first; `stand_in` is where they
    are missing if the user may not write there, else empty."""

    path: str
    made: tuple[str, ...]
    stand_in: str


def plan(
    path: str,
    kept: Collection[str],
    realpath: Callable[[str], str],
    exists: Callable[[str], bool],
    writable: Callable[[str], bool],
) -> Graft:
    """What it takes to mount on `path`, without covering any of `kept`. Raises NotPossibleError."""
    real = realpath(path)
    for one in kept:
        if one == real or one.startswith(f"{real.rstrip('/')}/"):
            raise NotPossibleError(f"the command needs the laptop's {one}")
    missing: list[str] = []
    nearest = real
    while not exists(nearest):
        missing.insert(0, nearest)
        nearest = os.path.dirname(nearest)
    if not missing:
        return Graft(real, (), "")
    return Graft(real, tuple(missing), "" if writable(nearest) else nearest)


def apply(graft: Graft, source: str, scratch: str) -> Sequence[str]:
    """Show `source`, a file or a directory, at the graft's path, read-only; what was made for that on the laptop and is
    to be removed in the end, innermost first. `scratch` is an empty directory of the run's own.

    Raises NotPossibleError and OSError.
    """
    if graft.stand_in:
        _stand_in(graft.stand_in, scratch)
    is_directory = os.path.isdir(source)
    if not graft.made and os.path.isdir(graft.path) != is_directory:
        raise NotPossibleError(f"on the laptop it is {'a file' if is_directory else 'a directory'}")
    for one in graft.made:
        if one == graft.path and not is_directory:
            os.close(os.open(one, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        else:
            os.mkdir(one, 0o755)
    mount(source, graft.path, None, MS_BIND)
    flags = os.statvfs(graft.path).f_flag
    kept = sum(ours for theirs, ours in _KEPT.items() if flags & theirs)
    mount(None, graft.path, None, MS_BIND | MS_REMOUNT | MS_RDONLY | kept)
    return () if graft.stand_in else tuple(reversed(graft.made))


def _stand_in(directory: str, scratch: str) -> None:
    """Put one in the place of `directory`: it leads to everything that is in there, and takes more."""
    try:
        entries = list(os.scandir(directory))
    except PermissionError as error:
        raise NotPossibleError(f"you may not list {directory}") from error
    if len(entries) > MOST_ENTRIES:
        raise NotPossibleError(f"there is too much in {directory}")
    mount("tmpfs", scratch, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0555,size=4m")
    mount(None, scratch, None, MS_UNBINDABLE)  # `directory` may lead to `scratch`
    for entry in entries:
        place = os.path.join(scratch, entry.name)
        if entry.is_symlink():
            os.symlink(os.readlink(entry.path), place)
            continue
        if entry.is_dir(follow_symlinks=False):
            os.mkdir(place)
        else:
            os.mknod(place, stat.S_IFREG | 0o600)
        mount(entry.path, place, None, MS_BIND | MS_REC)
    os.chdir(scratch)
    mount(".", directory, None, MS_MOVE)
    mount(None, ".", None, MS_PRIVATE)
    if directory == "/":
        os.chroot(".")  # where the command will be by itself: who enters the namespaces comes to what is on top
    os.chdir("/")


def remove(path: str) -> None:
    """Take away what `apply` made on the laptop. Raises OSError."""
    with suppress(OSError):
        unmount(path)
    if os.path.isdir(path):
        os.rmdir(path)
    elif os.path.getsize(path) == 0:
        os.unlink(path)
