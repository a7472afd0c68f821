"""The process that stays in the namespaces of a run, out of the command's way: in a session of its own.

It makes them, and the sockets that catch all traffic, and hands all of that to the command line, which hands the
sockets on to the daemon. Then it serves both:

    command line ──▶ {"mounts": [[PATH, TEXT], ...], "hide": [DIRECTORY, ...]}   ──▶ {}            once
    daemon       ──▶ {"id": ID, "family": 2, "kind": 1, "count": 4}              ──▶ {"id": ID} + sockets
                 ──▶ {"id": ID, "files": {"mounts": [PATH], "directory": PATH}} + archive ──▶ {"id": ID, ...}
                                                                                             whenever it likes

When the command line is gone, however it came to its end, everything that is left in the namespaces is ended: it
could not reach anything any more.
"""

import contextlib
import ctypes
import errno
import os
import select
import signal
import socket
import time
from typing import TYPE_CHECKING, NoReturn

from tproxy.capture import network, sockets
from tproxy.errors import TproxyError
from tproxy.netns import userns
from tproxy.netns.userns import Namespaces, RestrictedError
from tproxy_cli.run import mounts, packets
from tproxy_cli.run.packets import Json

if TYPE_CHECKING:
    from tproxy_cli.run.files import Files

MOST_SOCKETS = 16
TERM_SECONDS = 2.0
_PR_SET_NAME = 15


def become(ends: tuple[socket.socket, socket.socket], scratch: str) -> NoReturn:
    """Be that process, in a fork of the command line. `ends` lead to the command line and to the daemon; `scratch` is
    an empty directory of the user's."""
    command_line, daemon = ends
    status = 1
    try:
        _let_go({command_line.fileno(), daemon.fileno()})
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)
        os.setsid()
        ctypes.CDLL(None).prctl(_PR_SET_NAME, b"tproxy-inside", 0, 0, 0)
        try:
            namespaces = _make(command_line)
        except (RestrictedError, OSError, network.RulesError) as error:
            packets.send(command_line, _complaint(error))
        else:
            files = _Files(scratch)
            _serve(command_line, daemon, scratch, files)
            end_all(namespaces)
            files.close()
        status = 0
    except BrokenPipeError:
        pass  # nobody to tell
    finally:
        os._exit(status)


def _let_go(keep: set[int]) -> None:
    """Hold nothing of the command line's: who reads its output waits until nobody can write any more."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in keep:
            with contextlib.suppress(OSError):  # the one that listed them
                os.close(int(name))


def _make(command_line: socket.socket) -> Namespaces:
    with_user = userns.create()
    if with_user:
        userns.keep_rights_over_exec()  # for nft
    families = network.set_up()
    ask = network.install_rules(families, os.environ.get("TPROXY_RULES", "iptables"))
    made = sockets.make(families, ask)
    namespaces = Namespaces.of_process(with_user)
    descriptors = [*namespaces.descriptors, *(one.fileno() for one in made.by_name.values())]
    message: Json = {"namespaces": len(namespaces.descriptors), "sockets": list(made.by_name), "asks": ask}
    packets.send(command_line, message, descriptors)
    made.close()
    return namespaces


def _complaint(error: Exception) -> Json:
    if isinstance(error, RestrictedError):
        return {"error": {"step": error.step, "errno": error.errno}}
    if isinstance(error, OSError):
        forbidden = error.errno in (errno.EPERM, errno.EACCES)
        return {"error": {"step": userns.RIGHTS if forbidden else "a network of its own", "errno": error.errno or 0}}
    return {"error": {"step": f"rules: {error}", "errno": 0}}


def _serve(command_line: socket.socket, daemon: socket.socket, scratch: str, files: "_Files") -> None:
    """Until the command line is gone."""
    poll = select.poll()
    poll.register(command_line, select.POLLIN)
    poll.register(daemon, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == daemon.fileno():
                if not _serve_daemon(daemon, files):
                    poll.unregister(daemon)
                continue
            received = packets.receive(command_line)
            if received is None:
                return
            _serve_command_line(command_line, received[0], scratch)


def _serve_command_line(command_line: socket.socket, message: Json, scratch: str) -> None:
    answer: Json = {}
    try:
        mounts.apply(
            mounts.Plan(tuple((path, text) for path, text in message["mounts"]), tuple(message["hide"])), scratch
        )
    except OSError as error:
        answer = {"error": {"step": f"a mount on {error.filename}", "errno": error.errno or 0}}
    packets.send(command_line, answer)


def _serve_daemon(daemon: socket.socket, files: "_Files") -> bool:
    """Do what the daemon asks for; whether it is still there."""
    answer: Json = {}
    made: list[socket.socket] = []
    try:
        received = packets.receive(daemon)
        if received is None:
            return False
        message, descriptors = received
        answer["id"] = message["id"]
        if "files" in message:
            answer |= files.take(message["files"], descriptors)
        else:
            count = min(message["count"], MOST_SOCKETS)
            made = [sockets.fresh(message["family"], message["kind"]) for _ in range(count)]
    except (OSError, ValueError, KeyError, TypeError):
        made = []  # which says that it cannot be done
    try:
        packets.send(daemon, answer, [one.fileno() for one in made])
    except OSError:
        return False
    finally:
        for one in made:
            one.close()
    return True


class _Files:
    """A container's files, if the run is given any: few are, and the others need not wait for the imports."""

    def __init__(self, scratch: str) -> None:
        self._scratch = scratch
        self._files: Files | None = None

    def take(self, message: Json, descriptors: list[int]) -> Json:
        """Take an archive over; the answer."""
        if self._files is None:
            from tproxy_cli.run.files import Files

            self._files = Files(self._scratch)
        try:
            with os.fdopen(descriptors[0], "rb") as archive:
                archive.seek(0)
                return self._files.take(archive.read(), message["mounts"], message["directory"])
        except TproxyError as error:
            return {"error": {"message": error.message, "hint": error.hint}}
        except OSError as error:
            return {"error": {"message": f"the container's files cannot be shown: {error}", "hint": ""}}

    def close(self) -> None:
        """Remove what is on the laptop's disk."""
        if self._files is not None:
            self._files.close()


def end_all(namespaces: Namespaces) -> None:
    """End every other process in the namespaces: first it is asked to, then it is made to."""
    for number, seconds in ((signal.SIGTERM, TERM_SECONDS), (signal.SIGKILL, TERM_SECONDS)):
        deadline = time.monotonic() + seconds
        asked: set[int] = set()
        while others := [pid for pid in userns.processes_in(namespaces.net) if pid != os.getpid()]:
            for pid in others:
                if pid not in asked or number == signal.SIGKILL:
                    _kill(pid, number)
            asked.update(others)
            if time.monotonic() > deadline:
                break
            time.sleep(0.01)
        else:
            return


def _kill(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        pass
