"""What a run's command line says to the daemon, and hears from it (`tproxy_cli.daemon.runs.door`)."""

import json
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field

from tproxy.errors import TproxyError
from tproxy.version import VERSION
from tproxy_cli import paths
from tproxy_cli.run import packets
from tproxy_cli.run.packets import Json
from tproxy_cli.ui.console import Console

OPEN_SECONDS = 60.0
"""How long the daemon may be silent while it opens a way into the cluster."""

SERVE_SECONDS = 20.0
END_SECONDS = 10.0
"""How long the daemon may take to give up what belonged to the run."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a person asked for, in the daemon's form."""

    cluster: Json
    target: str | None
    publish: Sequence[tuple[int, int]] = ()
    also: Sequence[str] = ()
    never: Sequence[str] = ()
    given: Json | None = None
    sudo: bool = False
    id: str = field(default_factory=lambda: os.urandom(4).hex())


class Conversation:
    """One connection to the daemon's door; the run is over for the daemon when it closes. Raises TproxyError."""

    def __init__(self, console: Console) -> None:
        self.variables: dict[str, str] = {}
        """What the container has, if that is wanted, once the conversation is open."""
        self.dismissed = False
        """Whether the daemon said that it is about to end because somebody wants that."""
        self._console = console
        self._sock = _connect()

    def fileno(self) -> int:
        """Readable when there is news."""
        return self._sock.fileno()

    def open(self, wanted: Wanted, words: Sequence[str]) -> Json:
        """Have a way into the cluster opened; what is to be known of it."""
        content = {
            "id": wanted.id,
            "version": VERSION,
            "cluster": wanted.cluster,
            "target": wanted.target,
            "publish": [list(one) for one in wanted.publish],
            "alsoProxy": list(wanted.also),
            "neverProxy": list(wanted.never),
            "pid": os.getpid(),
            "given": wanted.given,
            "command": " ".join(words)[:256],
        }
        packets.send(self._sock, {"open": content})
        return self._answer("opened", OPEN_SECONDS)

    def serve(self, names: Sequence[str], descriptors: Sequence[int], factory: int) -> Json:
        """Hand over sockets with their names, and the way to the process inside; what has been made ready there."""
        packets.send(self._sock, {"serve": {"sockets": list(names)}}, [*descriptors, factory])
        return self._answer("serving", SERVE_SECONDS)

    def news(self) -> bool:
        """What the daemon has to say now goes to the person; whether the daemon is still there."""
        try:
            received = packets.receive(self._sock)
        except (OSError, ValueError):
            received = None
        if received is None:
            return False
        packets.close(received[1])
        self._heard(received[0])
        return True

    def end(self) -> None:
        """Say that the run is over, wait until the daemon has given up what belonged to it, and close."""
        try:
            packets.send(self._sock, {"end": {}})
            self._answer("ended", END_SECONDS)
        except (OSError, TproxyError):
            pass  # a daemon that is gone has given up everything as well
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()

    def _answer(self, expected: str, seconds: float) -> Json:
        """The daemon's answer of that kind. Raises the error that it answered instead."""
        self._sock.settimeout(seconds)
        while True:
            try:
                received = packets.receive(self._sock)
            except TimeoutError as error:
                raise TproxyError(
                    f"the tproxy daemon has not answered for {seconds:g} s",
                    f"its log says more: `tail {paths.log_path()}`",
                ) from error
            if received is None:
                raise TproxyError("the tproxy daemon has ended", f"its log says why: `tail {paths.log_path()}`")
            message, descriptors = received
            if "opened" in message and descriptors:
                self.variables = _variables(descriptors.pop())
            packets.close(descriptors)
            if expected in message:
                return dict(message[expected])
            self._heard(message)

    def _heard(self, message: Json) -> None:
        if "error" in message:
            error = message["error"]
            raise TproxyError(error["message"], error["hint"], error["exitCode"])
        if "progress" in message:
            self._console.progress(message["progress"])
        if "warn" in message:
            self._console.warn(message["warn"]["message"], message["warn"]["hint"])
        if "bye" in message:
            self.dismissed = True


def _variables(descriptor: int) -> dict[str, str]:
    with os.fdopen(descriptor, "rb") as memory:
        memory.seek(0)
        return dict(json.load(memory))


def _connect() -> socket.socket:
    path = paths.run_socket_path()
    door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        door.connect(str(path))
    except OSError as error:
        door.close()
        raise TproxyError(
            f"cannot reach the tproxy daemon at {path}: {error.strerror}", "`tproxy quit`, then run the command again"
        ) from error
    return door
