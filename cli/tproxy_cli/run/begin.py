"""Starts the process inside: as a fork of the command line or, where users may not make namespaces, by sudo."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable

from tproxy.errors import DeniedError
from tproxy_cli.run import inside, packets


def forked(theirs: socket.socket, factory: socket.socket, scratch: str) -> Callable[[], None]:
    """Fork it, handing over its ends of the two sockets; what waits until it has ended."""
    pid = os.fork()
    if not pid:
        inside.become((theirs, factory), scratch)
    theirs.close()
    factory.close()

    def wait() -> None:
        os.waitpid(pid, 0)

    return wait


def by_sudo(ours: socket.socket, theirs: socket.socket, factory: socket.socket, scratch: str) -> Callable[[], None]:
    """The same by way of sudo, which may ask for a password. Raises DeniedError."""
    words = [_sudo(), "--prompt=[sudo] password for %p, to make namespaces: "]
    if not sys.stdin.isatty():
        words.append("--non-interactive")
    started = subprocess.Popen(
        [*words, "--", sys.executable, "-I", "-m", "tproxy_cli.run.helper"], stdin=theirs.fileno()
    )
    theirs.close()
    ours.settimeout(None)  # people take their time to type
    received = packets.receive(ours)
    if received is None or "started" not in received[0]:
        factory.close()
        raise DeniedError(
            f"sudo did not start what makes the namespaces (it ended with status {started.wait()})",
            "see what you may do: `sudo --list`",
        )
    packets.send(ours, {"scratch": scratch}, [factory.fileno()])
    factory.close()

    def wait() -> None:
        started.wait()

    return wait


def _sudo() -> str:
    found = shutil.which("sudo")
    if found is None:
        raise DeniedError("there is no sudo here", "an administrator can allow namespaces: `tproxy doctor` says how")
    return found
