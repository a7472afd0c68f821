"""Processes of the lab: containers, which join their cgroup before they run, and short-lived tools."""

import asyncio
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from tproxy.errors import TproxyError
from tproxy.lab.layout import PATH

# The shell writes itself ("0") into the group and becomes the command: nothing of it ever runs outside.
_JOIN = 'echo 0 > "$0/cgroup.procs" && exec "$@"'


class Process:
    """A child of the lab server in a cgroup of its own."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self._child = child
        self._exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        # asyncio's own child watcher in 3.11 is a thread per process.
        self._pidfd = os.pidfd_open(child.pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._reap)

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        group: Path,
        environment: Mapping[str, str] | None = None,
        output: int = subprocess.DEVNULL,
        errors: int = subprocess.STDOUT,
    ) -> "Process":
        """Start `command` inside cgroup `group`, in a session of its own. Raises OSError."""
        child = subprocess.Popen(
            ["/bin/sh", "-c", _JOIN, str(group), *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )
        return cls(child)

    @property
    def pid(self) -> int:
        """Process id, valid until `wait` has returned."""
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether it has not been seen to end."""
        return not self._exited.done()

    def signal(self, number: int) -> None:
        """Send a signal unless it has ended."""
        self._child.send_signal(number)

    async def wait(self) -> int:
        """Exit code; the negative signal number if a signal ended it."""
        return await asyncio.shield(self._exited)

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        code = self._child.wait()
        if not self._exited.done():
            self._exited.set_result(code)


async def run(*command: str, text: str = "") -> str:
    """Run a tool with `text` as its input and return what it prints. Raises TproxyError with its complaint."""
    # Files in memory instead of pipes: nobody has to pump them, and no tool can block on one.
    with _memory_file(text) as given, _memory_file() as output, _memory_file() as errors:
        code = await _tool(command, given, output, errors).wait()
        if code:
            complaint = _content(errors).strip()[:1024]
            raise TproxyError(f"`{' '.join(command)}` failed with {code}: {complaint}")
        return _content(output)


def _tool(command: Sequence[str], given: BinaryIO, output: BinaryIO, errors: BinaryIO) -> Process:
    environment = {"PATH": PATH, "LC_ALL": "C.UTF-8"}
    return Process(subprocess.Popen(command, stdin=given, stdout=output, stderr=errors, env=environment))


def _memory_file(text: str = "") -> BinaryIO:
    file = os.fdopen(os.memfd_create("tproxy-lab"), "w+b", buffering=0)
    file.write(text.encode())
    file.seek(0)
    return file


def _content(file: BinaryIO) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
