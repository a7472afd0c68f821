"""Processes of the lab: containers, which join their cgroup before they run, and short-lived tools."""

import asyncio
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

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
    child = await asyncio.create_subprocess_exec(
        *command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": PATH, "LC_ALL": "C.UTF-8"},
    )
    output, errors = await child.communicate(text.encode())
    if child.returncode:
        complaint = errors.decode(errors="replace").strip()[:1024]
        raise TproxyError(f"`{' '.join(command)}` failed with {child.returncode}: {complaint}")
    return output.decode(errors="replace")
