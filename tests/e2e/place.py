"""A machine made of namespaces: its own network, mounts, processes and host name, on the kernel of this one.

Everything in it ends with this process, however that ends, and with it every link, mount and rule that was made there.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

STARTING_SECONDS = 10.0
_TIED = ("/usr/bin/setpriv", "--pdeathsig", "KILL")


class Place:
    """Its files are this machine's, but for what is mounted over them there. Call `close` at the end."""

    def __init__(self, name: str) -> None:
        self.name = name
        namespaces = ["--mount", "--net", "--uts", "--ipc", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"]
        # What is left there by its parent is reaped by a first process that does not want to know.
        first = ["env", "--ignore-signal=CHLD", "sleep", "infinity"]
        command = [*_TIED, "unshare", *namespaces, "--propagation", "private", *first]
        # It complains of how it ends.
        self._keeper = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        self.pid = self._first_process()
        self.run("hostname", name)

    def enter(self, *command: str | Path) -> list[str]:
        """The command line that runs `command` there."""
        line = ["nsenter", f"--target={self.pid}", "--mount", "--net", "--uts", "--ipc", "--pid"]
        return [*line, "--wd=/", *_TIED, *map(str, command)]

    def run(
        self, *command: str | Path, text: str = "", check: bool = True, seconds: float = 60, **settings: Any
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command there; `text` is its input. Raises AssertionError if it fails and `check`."""
        done = subprocess.run(
            self.enter(*command), input=text, capture_output=True, text=True, timeout=seconds, check=False, **settings
        )
        assert not check or done.returncode == 0, f"{self.name}: {command}: {done.stdout}{done.stderr}"
        return done

    def shell(self, script: str, *words: str | Path) -> str:
        """Run a script there, which stops at its first failure; what it prints."""
        return self.run("sh", "-euc", script, "sh", *words).stdout

    def start(self, *command: str | Path, log: Path, environment: Mapping[str, str] | None = None) -> "Process":
        """Begin a command there; its output goes to a file."""
        return start(self.enter(*command), log, entered=True, environment=environment)

    def ip(self, *lines: str) -> None:
        """Links, addresses and routes, as lines for `ip -batch`; process ids in them are this machine's."""
        command = ["nsenter", f"--target={self.pid}", "--net", "ip", "-batch", "-"]
        done = subprocess.run(command, input="\n".join(lines) + "\n", capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{self.name}: {done.stderr}"

    def close(self) -> None:
        """End everything in it."""
        # With its first process goes every other, and `unshare` has waited for that.
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._keeper.wait()

    def _first_process(self) -> int:
        children = Path(f"/proc/{self._keeper.pid}/task/{self._keeper.pid}/children")
        deadline = time.monotonic() + STARTING_SECONDS
        while time.monotonic() < deadline:
            # Once it is `sleep`, its mounts are made.
            if (found := children.read_text().split()) and Path(f"/proc/{found[0]}/comm").read_text() == "sleep\n":
                return int(found[0])
            time.sleep(0.005)
        self._keeper.kill()
        raise AssertionError(f"{self.name} has not become a place of its own: that takes root")


class Process:
    """A process of ours. In a place, what is waited for is `nsenter`, and the process is its child."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path, entered: bool) -> None:
        self._process = process
        self._entered = entered
        self.log = log

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    @property
    def pid(self) -> int:
        """Its id on this machine."""
        if not self._entered:
            return self._process.pid
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return int(children.read_text().split()[0])

    def wait(self, seconds: float) -> int:
        """Its exit code, once it has ended. Raises subprocess.TimeoutExpired."""
        return self._process.wait(seconds)

    def kill(self) -> None:
        """End it at once."""
        if self.alive:
            # It may end this very moment, and then has no child any more.
            with contextlib.suppress(ProcessLookupError, IndexError):
                self.signal(signal.SIGKILL)
            # `nsenter` stops when its child is stopped, and stays so when that goes on.
            self._process.kill()
        self._process.wait()

    @property
    def last_words(self) -> str:
        """The end of its output."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-8:])


def start(command: Sequence[str], log: Path, entered: bool, environment: Mapping[str, str] | None = None) -> Process:
    """Begin a command, which ends with this process; its output goes to a file."""
    with log.open("ab") as output:
        process = subprocess.Popen([*_TIED, *command], stdout=output, stderr=output, env=environment)
    return Process(process, log, entered)


def require(processes: Sequence[Process]) -> None:
    """Raises AssertionError with the last words of one that has ended."""
    for process in processes:
        assert process.alive, f"{process.log.stem} has ended: {process.last_words}"
