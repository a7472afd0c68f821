"""An ordinary user of the laptop: nobody in particular, without rights and groups. The lab itself is run by root."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

USER = 65534

_SCRIPT = """
set -e
uid=$1; shift
for closed; do
    [ "$closed" = -- ] && break
    shift
    scratch=$(mktemp -d)
    mount -t tmpfs -o mode=755 tmpfs "$scratch"
    mkdir -m 755 "$scratch/upper" "$scratch/work"
    mount -t overlay -o "lowerdir=$closed,upperdir=$scratch/upper,workdir=$scratch/work" overlay "$closed"
    umount -l "$scratch"; rmdir "$scratch"
done
shift
exec setpriv --reuid "$uid" --regid "$uid" --clear-groups -- "$@"
"""


def ordinary(command: Sequence[str], uid: int = USER) -> list[str]:
    """The command line that runs `command` as such a user.

    Where our interpreter is in a directory that is closed to others, as root's home is, it sees a copy of that
    directory that is open, in a mount namespace of its own.
    """
    return ["unshare", "--mount", "sh", "-c", _SCRIPT, "sh", str(uid), *_closed(), "--", *command]


def _closed() -> list[str]:
    """The outermost directories on the way to the interpreter that others may not pass."""
    found = []
    for path in {Path(sys.executable), Path(sys.base_prefix), Path(os.path.realpath(sys.executable)), Path(__file__)}:
        for directory in reversed(path.parents):
            if not directory.stat().st_mode & 0o001:
                found.append(str(directory))
                break
    return sorted(set(found))
