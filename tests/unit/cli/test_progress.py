"""A spinner on a terminal leaves nothing behind; elsewhere there are lines."""

import fcntl
import io
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tproxy_cli.ui.progress import Spinner

from tests.unit.cli.fakes import FakeDaemon, wait_for


class Terminal:
    """A command on a pseudo-terminal of 60 columns."""

    def __init__(self, *args: str, **environment: str) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from tproxy_cli.main import main; main()", *args],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm"} | environment,
        )
        os.close(theirs)
        self._shown = b""

    def wait_for(self, text: str) -> None:
        """Wait until `text` was written."""
        deadline = time.monotonic() + 10
        while text.encode() not in self._shown:
            assert time.monotonic() < deadline, self._shown
            assert self._read(), self._shown

    def rest(self) -> str:
        """Wait for the end; what stays on the screen."""
        while self._read():
            pass
        self.process.wait(10)
        return self.screen()

    def screen(self) -> str:
        """What is on the screen, as far as a terminal needs to know carriage return and "erase to end of line"."""
        lines = []
        for line in re.sub(r"\x1b\[[\d;]*m", "", self._shown.decode()).replace("\r\n", "\n").split("\n"):
            shown = ""
            for part in line.split("\r"):
                shown = part[3:] if part.startswith("\x1b[K") else part + shown[len(part) :]
            lines.append(shown)
        return "\n".join(lines)

    @property
    def written(self) -> str:
        """Everything that was written, escape sequences included."""
        return self._shown.decode()

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        os.close(self._ours)

    def _read(self) -> bool:
        assert select.select([self._ours], [], [], 10)[0], self._shown
        try:
            part = os.read(self._ours, 65536)
        except OSError:  # how Linux says that the other side is closed
            return False
        self._shown += part
        return bool(part)


@pytest.fixture
def gate(daemon: FakeDaemon) -> Iterator[threading.Event]:
    """Set it to have the daemon answer `list` and `quit`."""
    event = threading.Event()
    daemon.answers["/v1/list"] = [
        {"progress": "asking the cluster " + "again and " * 20},
        event,
        {"result": {"intercepts": []}},
    ]
    yield event
    event.set()


@contextmanager
def run(*args: str, **environment: str) -> Iterator[Terminal]:
    """The command on a terminal; it ends with the block."""
    terminal = Terminal(*args, **environment)
    try:
        yield terminal
    finally:
        terminal.close()


@pytest.fixture
def listing(gate: threading.Event) -> Iterator[Terminal]:
    """`tproxy list` on a terminal."""
    with run("list") as terminal:
        yield terminal


def test_the_spinner_turns_on_one_line_and_leaves_no_trace(listing: Terminal, gate: threading.Event) -> None:
    listing.wait_for("⠙ asking the cluster")
    assert [len(line) for line in listing.screen().split("\n")] == [57]
    gate.set()
    assert listing.rest() == "no intercepts; start one with `tproxy intercept WORKLOAD --port PORT`\n"


def test_ctrl_c_wipes_the_spinner(listing: Terminal) -> None:
    listing.wait_for("⠙ asking the cluster")
    listing.process.send_signal(signal.SIGINT)
    assert listing.rest() == "error: interrupted\n"
    assert listing.process.returncode == 130
    assert "\x1b[31m" in listing.written, "on a terminal the word error is red"


@pytest.mark.parametrize(
    "environment", [{"TPROXY_PROGRESS": "plain", "NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["plain", "dumb"]
)
def test_plain_lines_where_nothing_may_move(
    daemon: FakeDaemon, gate: threading.Event, environment: dict[str, str]
) -> None:
    with run("list", **environment) as terminal:
        terminal.wait_for("asking the cluster")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.rest().endswith("error: interrupted\n")
        assert "\x1b" not in terminal.written


def test_what_is_quick_shows_no_spinner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Spinner, "PATIENCE", 60.0)
    stream = io.StringIO()
    spinner = Spinner(stream)
    spinner.say("asking")
    spinner.clear()
    assert stream.getvalue() == ""


def test_an_encoding_without_the_frames_gets_others(daemon: FakeDaemon, gate: threading.Event) -> None:
    with run("list", PYTHONIOENCODING="latin-1") as terminal:
        terminal.wait_for("/ asking the cluster")
        wait_for(lambda: daemon.bodies("/v1/list"))
        gate.set()
        terminal.rest()
