"""A host-wide connection's root helper, in a namespace that stands for the laptop."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tproxy_cli.run import packets

from tests.kernel.namespaces import Namespace
from tests.kernel.node import ROOT
from tproxy.capture import queue


def helpers(place: Namespace) -> list[int]:
    """The helper's processes in a namespace, oldest first; their numbers do not tell, for those begin anew."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            ours = entry.name.isdecimal() and b"tproxy_cli.connect.helper" in (entry / "cmdline").read_bytes()
            if ours and (entry / "ns/net").stat().st_ino == place.netns.id.inode:
                began = int((entry / "stat").read_text().rpartition(")")[2].split()[19])
                found.append((began, int(entry.name)))
    return [pid for _, pid in sorted(found)]


def descriptors(pid: int) -> list[str]:
    """What a process holds open."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(entry))
    return found


class Helper:
    """The daemon's view of it. `processes` are those that are left of it."""

    def __init__(self, place: Namespace) -> None:
        self.place = place
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        path = os.pathsep.join([str(ROOT), str(ROOT / "cli")])
        command = ["ip", "netns", "exec", place.name, sys.executable, "-m", "tproxy_cli.connect.helper"]
        self.started = subprocess.Popen(
            command, stdin=theirs, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
        )
        theirs.close()
        self.sock.settimeout(10)
        self.sockets: dict[str, socket.socket] = {}

    def say(self, **message: Any) -> None:
        packets.send(self.sock, message)

    def hear(self) -> tuple[dict[str, Any], list[int]]:
        received = packets.receive(self.sock)
        assert received is not None, "it is gone"
        return received

    def renew(self) -> None:
        """Say that the daemon is alive; all that was said has been done then."""
        self.say(alive={})
        self.say(family=int(socket.AF_INET), kind=int(socket.SOCK_DGRAM), count=1)
        packets.close(self.hear()[1])

    def let_in(self, verdict: str = "open") -> bool:
        """Give this verdict to whoever waits; whether anybody did."""
        try:
            waiting = list(queue.asked(self.sockets["queue"].recv(queue.LONGEST_MESSAGE, socket.MSG_DONTWAIT)))
        except BlockingIOError:
            return False
        with contextlib.suppress(BrokenPipeError):
            for one in waiting:
                self.say(verdicts=[[one.number, verdict]])
        return True

    def begin(self) -> None:
        self.say(begin={})
        message, descriptors = self.hear()
        assert "ready" in message, message
        made = [socket.socket(fileno=one) for one in descriptors]
        self.sockets = dict(zip(message["ready"]["sockets"], made, strict=True))
        assert self.started.wait(10) == 0

    def processes(self) -> list[int]:
        """Oldest first: the worker, then those who guard."""
        return helpers(self.place)

    def close(self) -> None:
        for sock in (self.sock, *self.sockets.values()):
            sock.close()
        assert self.started.stderr is not None
        self.started.stderr.close()
        if self.started.poll() is None:
            self.started.kill()
            self.started.wait()
        deadline = time.monotonic() + 10
        while self.processes():
            if time.monotonic() > deadline:
                for pid in self.processes():
                    os.kill(pid, signal.SIGKILL)
                raise AssertionError("the helper goes on without its daemon")
            time.sleep(0.01)


@contextlib.contextmanager
def helper(place: Namespace) -> Iterator[Helper]:
    made = Helper(place)
    try:
        yield made
    finally:
        made.close()


def wait(condition: Callable[[], bool], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)
