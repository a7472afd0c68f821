"""The daemon's end of the process that owns the TPROXY rules (`iptables_helper`).

Installing waits for it, removing does not. If it dies it is started anew and told what there is to undo; the
rules and their leases don't need it meanwhile.
"""

import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

from tproxy.errors import DeniedError, TproxyError
from tproxy.netns.handle import Netns
from tproxy.steer.diagnosis import explain_plainly
from tproxy.steer.iptables_helper import LARGEST_MESSAGE
from tproxy.steer.iptables_layout import Names

log = logging.getLogger(__name__)

START_SECONDS = 15.0
INSTALL_SECONDS = 2.0
"""It takes some ten milliseconds, for which the loop that serves waits; a lease should outlast the worst."""

END_SECONDS = 5.0
RESTART_SECONDS = 2.0

HINT = (
    "a node needs iptables (legacy), ipset and TPROXY in its kernel: `modprobe -a ip_tables xt_TPROXY ip_set_list_set`"
)


class Rules:
    """Installs and removes the rules of attachments."""

    def __init__(self) -> None:
        """Raises TproxyError if this machine cannot do it, which takes a try in an empty namespace."""
        self._installed: dict[str, Netns] = {}
        self._leaving: set[str] = set()
        self._not_before = 0.0
        self._start()
        try:
            error = self._answer("", time.monotonic() + START_SECONDS)
            if error is not None:
                raise error
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise _explained(0, str(error)) from error
            raise

    def install(self, names: Names, netns: Netns, listeners: Mapping[int, int]) -> None:
        """Steer to our listeners' ports (by family) in `netns`, which stays the caller's.

        Raises TproxyError, or OSError without descriptors.
        """
        self.poll()
        kept = Netns(os.dup(netns.fileno()))
        try:
            self._send({"do": "install", "chain": names.chain, "listeners": dict(listeners)}, kept)
        except OSError as lost:
            kept.close()
            self._restart()  # it has heard nothing of this one
            raise _lost(lost) from lost
        self._installed[names.chain] = kept
        try:
            error = self._answer(names.chain, time.monotonic() + INSTALL_SECONDS)
        except OSError as lost:
            self._restart()
            self.remove(names)
            raise _lost(lost) from lost
        if error is not None:
            self._forget(names.chain)
            raise error

    def remove(self, names: Names) -> None:
        """Undo `install`, in the background. Never raises."""
        if names.chain in self._installed:
            self._leaving.add(names.chain)
            try:
                self._send({"do": "remove", "chain": names.chain})
            except OSError:
                self._restart()

    def poll(self) -> None:
        """See what it has to say, without waiting, and whether it lives. Never raises."""
        try:
            while message := self._socket.recv(LARGEST_MESSAGE, socket.MSG_DONTWAIT):
                self._heard(json.loads(message))
        except BlockingIOError:
            return
        except OSError:
            pass
        self._restart()

    def close(self) -> None:
        """End the process, which undoes everything, and wait for it."""
        self._socket.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            log.warning("undoing steering goes on without the daemon", extra={"pid": self._process.pid})
        for netns in self._installed.values():
            netns.close()
        self._installed.clear()

    def _start(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", "tproxy.steer.iptables_helper", str(theirs.fileno())]
            # A session of its own: Ctrl-C on a terminal is for the daemon.
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], start_new_session=True)

    def _restart(self) -> None:
        """Another process, at most one in `RESTART_SECONDS`. Never raises: leases must be renewed whatever happens."""
        if time.monotonic() < self._not_before:
            return
        self._not_before = time.monotonic() + RESTART_SECONDS
        log.error("the process that keeps the rules is gone: starting another")
        self._socket.close()
        self._process.kill()
        self._process.wait()
        try:
            self._start()
            for chain, netns in self._installed.items():
                self._send({"do": "adopt", "chain": chain}, netns)
            for chain in self._leaving:
                self._send({"do": "remove", "chain": chain})
        except OSError as error:
            log.error("cannot start the process that keeps the rules: %s", error)

    def _send(self, request: dict[str, Any], netns: Netns | None = None) -> None:
        socket.send_fds(self._socket, [json.dumps(request).encode()], [] if netns is None else [netns.fileno()])

    def _answer(self, chain: str, deadline: float) -> TproxyError | None:
        """What went wrong with `chain`. Raises OSError if it says nothing in time."""
        while True:
            self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                message = self._socket.recv(LARGEST_MESSAGE)
            finally:
                self._socket.settimeout(None)
            if not message:
                raise ConnectionResetError("it has ended unexpectedly")
            answer = json.loads(message)
            if answer["chain"] == chain:
                return _explained(answer["errno"], answer["error"]) if answer["error"] else None
            self._heard(answer)

    def _heard(self, answer: dict[str, Any]) -> None:
        """Of a removal, or that a new process is ready."""
        if answer["error"]:
            log.warning("undoing steering: %s", answer["error"], extra={"chain": answer["chain"]})
        self._forget(answer["chain"])

    def _forget(self, chain: str) -> None:
        self._leaving.discard(chain)
        netns = self._installed.pop(chain, None)
        if netns is not None:
            netns.close()


def _explained(number: int, text: str) -> TproxyError:
    explained = explain_plainly(OSError(number, text), "steer with iptables rules")
    return explained if isinstance(explained, DeniedError) else TproxyError(explained.message, HINT)


def _lost(error: OSError) -> TproxyError:
    return _explained(0, f"the process that keeps the rules: {error}")
