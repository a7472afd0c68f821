"""Where the laptop side keeps its files, and the checks that make those places safe to trust.

    runtime_dir()   socket and lock    $XDG_RUNTIME_DIR/tproxy, else /tmp/tproxy-UID (0700)
    state_dir()     log and sessions   $XDG_STATE_HOME/tproxy, else ~/.local/state/tproxy (0700)
    config_path()   defaults of flags  $TPROXY_CONFIG, else tproxy/config.yaml in $XDG_CONFIG_HOME or ~/.config

Used by every command, so this module imports next to nothing at first.
"""

import os
import stat
from typing import TYPE_CHECKING

from tproxy.errors import TproxyError

if TYPE_CHECKING:
    from pathlib import Path

SOCKET_PATH_LIMIT = 103
"""Longest path in bytes that a unix socket can have everywhere (macOS: 104 with the final NUL)."""


def runtime_dir() -> "Path":
    """The directory of the daemon's socket and lock, made if it is missing.

    `$XDG_RUNTIME_DIR` counts only if it is a directory of this user that can be written: under `sudo` and `su`
    it often still names another user's. Raises TproxyError if ours cannot be made, or is not ours alone.
    """
    directory = _runtime_path()
    if len(os.fsencode(directory / "daemon.sock")) > SOCKET_PATH_LIMIT:
        raise TproxyError(
            f"the path {directory} is too long for a unix socket",
            f"set XDG_RUNTIME_DIR to a path of less than {SOCKET_PATH_LIMIT - 19} bytes",
        )
    return _private_directory(directory)


def state_dir() -> "Path":
    """The directory of the daemon's log and sessions, made if it is missing. Raises TproxyError if not ours."""
    return _private_directory(_state_path())


def socket_path() -> "Path":
    """The daemon's unix socket."""
    return runtime_dir() / "daemon.sock"


def run_socket_path() -> "Path":
    """The daemon's unix socket for runs."""
    return runtime_dir() / "run.sock"


def lock_path() -> "Path":
    """The file on which the running daemon holds a lock."""
    return runtime_dir() / "daemon.lock"


def log_path() -> "Path":
    """The daemon's log. Creates nothing, so that errors can name it."""
    return _state_path() / "daemon.log"


def sessions_path() -> "Path":
    """The daemon's sessions with their tokens."""
    return state_dir() / "sessions.json"


def config_path() -> str:
    """The configuration file, whether it exists or not."""
    return os.environ.get("TPROXY_CONFIG") or os.path.join(_xdg("XDG_CONFIG_HOME", ".config"), "tproxy/config.yaml")


def _runtime_path() -> "Path":
    from pathlib import Path

    base = os.environ.get("XDG_RUNTIME_DIR", "")
    if _is_own_directory(base):
        return Path(base) / "tproxy"
    return Path(f"/tmp/tproxy-{os.getuid()}")  # noqa: S108 -- _private_directory checks whose it is


def _state_path() -> "Path":
    from pathlib import Path

    return Path(_xdg("XDG_STATE_HOME", ".local/state")) / "tproxy"


def _xdg(variable: str, below_home: str) -> str:
    value = os.environ.get(variable, "")
    if os.path.isabs(value):  # the specification: relative values are to be ignored
        return value
    home = os.path.expanduser("~")
    if not os.path.isabs(home):
        raise TproxyError("cannot find your home directory", "set HOME")
    return os.path.join(home, below_home)


def _is_own_directory(path: str) -> bool:
    if not os.path.isabs(path):
        return False
    try:
        found = os.stat(path)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and os.access(path, os.W_OK | os.X_OK)


def _private_directory(path: "Path") -> "Path":
    """Make `path` with mode 0700 or check that it is ours alone: who can write there could stand in for us."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        entry, found = path.lstat(), path.stat()
    except FileExistsError as error:
        raise TproxyError(f"{path} is not a directory", f"remove it: `rm {path}`") from error
    except OSError as error:
        raise TproxyError(
            f"cannot create the directory {path}: {error.strerror}", f"check with `ls -ld {path.parent}`"
        ) from error
    # The entry's own owner counts too: in /tmp anybody can put a link to a directory of ours.
    if {entry.st_uid, found.st_uid} != {os.getuid()}:
        owner = entry.st_uid if entry.st_uid != os.getuid() else found.st_uid
        raise TproxyError(
            f"{path} belongs to another user (uid {owner})",
            "use a directory of your own: `export XDG_RUNTIME_DIR=$(mktemp -d)`",
        )
    if found.st_mode & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        raise TproxyError(
            f"{path} is open to other users (mode {mode:04o})",
            f"look at what is in it, then `chmod 700 {path}`",
        )
    return path
