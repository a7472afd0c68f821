"""`tproxy run` under an interactive shell: its job, its terminal, its signals, as if we were not there."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator

import pytest

from tests.kernel.run_laptop import DEADLINE, Laptop
from tproxy.lab.ordinary import ordinary

RUN = f"{sys.executable} -m tests.kernel.run_client --"


class Terminal:
    """A terminal with an interactive bash of the ordinary user's."""

    def __init__(self, laptop: Laptop) -> None:
        self._fd, theirs = pty.openpty()
        self.resize(24, 80)
        shell = ["setsid", "--ctty", "--wait", *ordinary(["bash", "--norc", "--noprofile", "--noediting", "-i"])]
        environment = laptop.environment | {"PS1": "next> ", "TERM": "dumb"}
        streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
        self.process = subprocess.Popen(shell, env=environment, cwd=laptop.home, **streams)
        os.close(theirs)
        self._seen = ""

    def resize(self, rows: int, columns: int) -> None:
        """Give it another size; the kernel tells the foreground job."""
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._fd, text.encode())

    def wait(self, pattern: str) -> str:
        """Read until the pattern is seen; what was before it is forgotten."""
        deadline = time.monotonic() + DEADLINE
        while not (found := re.search(pattern, self._seen)):
            assert time.monotonic() < deadline, f"no {pattern!r} in {self._seen!r}"
            if select.select([self._fd], [], [], 0.1)[0]:
                self._seen += os.read(self._fd, 65536).decode(errors="replace")
        self._seen = self._seen[found.end() :]
        return found.group()

    def do(self, line: str, pattern: str) -> str:
        """At the prompt, enter a command, and wait for an answer."""
        self.wait("next> ")
        return self.answer(line, pattern)

    def answer(self, line: str, pattern: str) -> str:
        """Type a line to the program that runs, and wait for what it says; the echo of the line is no answer."""
        self.type(f"{line}\n")
        self.wait(re.escape(line) + r"\r\n")
        return self.wait(pattern)

    def close(self) -> None:
        """Hang up, as by closing the window, which ends the shell."""
        os.close(self._fd)
        try:
            self.process.wait(DEADLINE)
        finally:
            self.process.kill()


@pytest.fixture
def terminal(laptop: Laptop) -> Iterator[Terminal]:
    one = Terminal(laptop)
    try:
        yield one
    finally:
        one.close()


def test_stopped_by_the_terminal_and_continued_in_the_foreground(terminal: Terminal) -> None:
    code = "import sys; print('re'+'ady', flush=True); [print('got', line, flush=True) for line in sys.stdin]"
    terminal.do(f'{RUN} {sys.executable} -c "{code}"', "ready")
    for _ in range(2):
        terminal.type("\x1a")
        terminal.wait("Stopped")
        terminal.do("jobs", r"\[1\]\+ +Stopped")
        terminal.do("fg", "run_client")
        terminal.answer("line", "got line")
    terminal.type("\x04")
    terminal.do("echo status $?", "status 0")


def test_in_the_background_it_waits_for_the_terminal(terminal: Terminal) -> None:
    terminal.do(f"{RUN} cat &", r"\[1\] \d+")
    terminal.do("wait %1; jobs", r"Stopped \(tty input\)|Stopped")
    terminal.do("fg", "run_client")
    terminal.answer("hello", "hello")
    terminal.type("\x04")
    terminal.do("echo status $?", "status 0")


def test_interrupted_is_interrupted(terminal: Terminal) -> None:
    # No shell here: one that is interrupted while it starts a program may go on with that.
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_DFL); print('re'+'ady', flush=True); signal.pause()"
    for key, status in (("\x03", 130), ("\x1c", 131)):
        terminal.do(f'{RUN} {sys.executable} -c "{code}"', "ready")
        terminal.type(key)
        terminal.do("echo status $?", f"status {status}")


def test_who_handles_the_interrupt_goes_on(terminal: Terminal) -> None:
    terminal.do(f"{RUN} sh -c 'trap \"echo cau''ght; exit 7\" INT; echo re''ady; while :; do sleep 0.1; done'", "ready")
    terminal.type("\x03")
    terminal.wait("caught")
    terminal.do("echo status $?", "status 7")


def test_the_size_of_the_terminal_and_its_changes(terminal: Terminal) -> None:
    terminal.do(f"{RUN} stty size", "24 80")
    terminal.do(
        f"{RUN} sh -c 'trap \"stty size\" WINCH; trap \"exit 3\" INT; echo re''ady; while :; do sleep 0.1; done'",
        "ready",
    )
    terminal.resize(50, 132)
    terminal.wait("50 132")
    terminal.type("\x03")
    terminal.do("echo status $?", "status 3")


def test_the_terminal_and_the_group_are_the_shells_own(terminal: Terminal) -> None:
    terminal.do("tty", r"/dev/\S+")
    terminal.do(f"{RUN} tty", r"/dev/\S+")
    terminal.do(f"{RUN} sh -c 'test -t 0 && test -t 1 && test -t 2 && echo all th''ree'", "all three")
    # The job is the terminal's foreground group, so that full-screen programs may take it over.
    terminal.do(f"{RUN} ps -o stat= -p $$", "S")
    terminal.do(f"{RUN} sh -c 'ps -o tpgid=,pgid= -p $$ | awk \"{{print (\\$1 == \\$2) ? 1 : 0}}\"'", "1")
