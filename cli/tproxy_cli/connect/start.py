"""Starts the root helper through sudo, and tells whether one has left something behind. For an ordinary user."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from tproxy.errors import DeniedError, TproxyError
from tproxy_cli.connect import routes
from tproxy_cli.connect.codes import FAILED, IN_USE, NO_IPTABLES, NOT_POSSIBLE
from tproxy_cli.connect.layout import FAMILIES, NAME

_UNIX_SOCKETS = Path("/proc/net/unix")


def start(daemon: socket.socket) -> int:
    """Start a helper with `daemon` as its stdin, and wait until it has installed everything: how it ended, of `codes`.

    Raises DeniedError if it did not come so far.
    """
    command = [*as_root(), "-m", "tproxy_cli.connect.helper"]
    status = subprocess.run(command, stdin=daemon.fileno(), check=False).returncode
    if status in (0, IN_USE, NO_IPTABLES, FAILED, NOT_POSSIBLE):
        return status
    raise DeniedError(
        f"sudo did not start the root helper (it ended with status {status})",
        "ask for the right to, or use `tproxy run -- COMMAND`, which needs no root",
    )


def as_root() -> list[str]:
    """How to run this interpreter as root, without what the environment says of it. Raises DeniedError."""
    if os.geteuid() == 0:
        return [sys.executable]
    sudo = shutil.which("sudo")
    if sudo is None:
        raise DeniedError(
            "connecting the whole machine takes root, and there is no sudo",
            "run `tproxy connect` as root, or use `tproxy run -- COMMAND`, which needs no root",
        )
    words = [sudo, "--prompt=[sudo] password for %p, to connect this machine to the cluster: "]
    if not sys.stdin.isatty():
        words.append("--non-interactive")
    return [*words, "--", sys.executable, "-I"]


def is_left() -> bool:
    """Whether there is something of a connection none of whose helper's processes are there any more."""
    return any(routes.is_there(family) for family in FAMILIES) and not _is_held()


def remove_left() -> None:
    """Have a helper undo it: one that is told nothing but that the daemon has gone. Raises TproxyError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.close()
    with theirs:
        start(theirs)
    if is_left():
        raise TproxyError("what a killed connection has left cannot be removed", "the root helper says why above")


def _is_held() -> bool:
    try:
        lines = _UNIX_SOCKETS.read_text(errors="replace").splitlines()
    except OSError:
        return True  # nobody can tell
    return any(line.endswith(f" @{NAME[1:]}") for line in lines)
