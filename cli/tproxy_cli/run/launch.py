"""A run from the command line's side, from nothing to the command's exit status.

command line ──fork──▶ process inside: namespaces, rules, sockets        while the daemon opens a way into the cluster
             ◀── descriptors ──┘
             ──▶ daemon: the sockets
             ──fork──▶ the command, in the namespaces
"""

import os
import secrets
import select
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tproxy.errors import TproxyError
from tproxy.netns.userns import Namespaces
from tproxy.version import VERSION
from tproxy_cli import paths
from tproxy_cli.client import Daemon
from tproxy_cli.run import inside, mounts, packets, restricted
from tproxy_cli.run.command import Command, find
from tproxy_cli.run.packets import Json
from tproxy_cli.ui.console import Console

OPEN_SECONDS = 60.0
"""How long the daemon may be silent while it opens a way into the cluster."""

SET_UP_SECONDS = 20.0
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
    id: str = field(default_factory=lambda: secrets.token_hex(4))


@dataclass(slots=True)
class _Made:
    """What the process inside has made."""

    namespaces: Namespaces
    sockets: Sequence[str]
    descriptors: Sequence[int]


class Launch:
    """One run. `scratch` is a directory that mounts in the run's namespace hide."""

    def __init__(self, console: Console, wanted: Wanted) -> None:
        self._console = console
        self._wanted = wanted
        self._inside, theirs = packets.pair()
        self._factory, factory = packets.pair()
        scratch = paths.runtime_dir() / "inside"
        scratch.mkdir(mode=0o700, exist_ok=True)
        self._pid = os.fork()
        if not self._pid:
            inside.become((theirs, factory), str(scratch))
        theirs.close()
        factory.close()
        self._door: socket.socket | None = None
        self._made: _Made | None = None

    def run(
        self,
        words: Sequence[str],
        environment: Mapping[str, str],
        prepare: Callable[[], None] = lambda: None,
    ) -> int:
        """Run the command; its exit status. Raises TproxyError if it could not be started.

        `prepare` is called when everything else is ready.
        """
        path = find(words[0], environment)
        opened = self._open(words)
        self._made = made = self._receive_made()
        self._mount(opened["resolvConf"])
        self._serve(made)
        prepare()
        self._console.clear()
        command = Command()
        try:
            command.start(path, words, environment, made.namespaces)
            return self._wait(command)
        finally:
            command.close()

    def close(self) -> None:
        """End what is left inside, and wait until everything that belonged to the run is gone."""
        self._inside.close()
        os.waitpid(self._pid, 0)
        if self._made is not None:
            inside.end_all(self._made.namespaces)  # that process may have been killed before it could
            packets.close([*self._made.namespaces.descriptors, *self._made.descriptors])
        if self._door is not None:
            try:
                packets.send(self._door, {"end": {}})
                self._answer("ended", END_SECONDS)
            except (OSError, TproxyError):
                pass  # a daemon that is gone gives up everything as well
            self._door.close()

    # The daemon

    def _open(self, words: Sequence[str]) -> Json:
        wanted = self._wanted
        self._door = door = connect_door()
        packets.send(
            door,
            {
                "open": {
                    "id": wanted.id,
                    "version": VERSION,
                    "cluster": wanted.cluster,
                    "target": wanted.target,
                    "publish": [list(one) for one in wanted.publish],
                    "alsoProxy": list(wanted.also),
                    "neverProxy": list(wanted.never),
                    "pid": os.getpid(),
                    "command": " ".join(words)[:256],
                }
            },
        )
        return self._answer("opened", OPEN_SECONDS)

    def _serve(self, made: _Made) -> None:
        assert self._door is not None  # noqa: S101
        packets.send(
            self._door, {"serve": {"sockets": list(made.sockets)}}, [*made.descriptors, self._factory.fileno()]
        )
        self._answer("serving", SET_UP_SECONDS)

    def _answer(self, expected: str, seconds: float) -> Json:
        """The daemon's answer of that kind. Raises the error that it answered instead."""
        assert self._door is not None  # noqa: S101
        self._door.settimeout(seconds)
        while True:
            try:
                received = packets.receive(self._door)
            except TimeoutError as error:
                raise TproxyError(
                    f"the tproxy daemon has not answered for {seconds:g} s",
                    f"its log says more: `tail {paths.log_path()}`",
                ) from error
            if received is None:
                raise TproxyError("the tproxy daemon has ended", f"its log says why: `tail {paths.log_path()}`")
            message, descriptors = received
            packets.close(descriptors)
            if expected in message:
                return dict(message[expected])
            self._heard(message)

    def _heard(self, message: Json) -> None:
        """News of the daemon. Raises its error."""
        if "error" in message:
            error = message["error"]
            raise TproxyError(error["message"], error["hint"], error["exitCode"])
        if "progress" in message:
            self._console.progress(message["progress"])
        if "warn" in message:
            self._console.warn(message["warn"]["message"], message["warn"]["hint"])

    # The process inside

    def _receive_made(self) -> _Made:
        message, descriptors = self._from_inside("make namespaces")
        count = message["namespaces"]
        return _Made(Namespaces.of_descriptors(descriptors[:count]), message["sockets"], descriptors[count:])

    def _mount(self, resolv_conf: str) -> None:
        plan = mounts.plan(resolv_conf, _read, os.path.realpath, os.path.isdir)
        packets.send(self._inside, {"mounts": plan.files, "hide": plan.hidden})
        self._from_inside("mount")

    def _from_inside(self, what: str) -> tuple[Json, list[int]]:
        self._inside.settimeout(SET_UP_SECONDS)
        try:
            received = packets.receive(self._inside)
        except TimeoutError:
            received = None
        if received is None:
            raise TproxyError(f"the process that was to {what} has ended", "run it again with `-v`")
        message, descriptors = received
        if "error" in message:
            packets.close(descriptors)
            raise restricted.explain(message["error"]["step"], message["error"]["errno"])
        return message, descriptors

    # The command

    def _wait(self, command: Command) -> int:
        assert self._door is not None  # noqa: S101
        poll = select.poll()
        for one in (command, self._door, self._inside):
            poll.register(one, select.POLLIN)
        patience: float | None = None
        while True:
            ready = poll.poll(patience)
            if not ready:
                command.kill(signal.SIGKILL)
            for descriptor, _ in ready:
                if descriptor == command.fileno():
                    if (status := command.handle()) is not None:
                        return status
                elif descriptor == self._door.fileno():
                    if not self._news():
                        poll.unregister(self._door)
                else:
                    poll.unregister(self._inside)
                    self._console.warn("somebody has ended the process that keeps the command's network")
                    command.kill(signal.SIGTERM)
                    patience = inside.TERM_SECONDS * 1000

    def _news(self) -> bool:
        """What the daemon has to say; whether it is still there."""
        assert self._door is not None  # noqa: S101
        try:
            received = packets.receive(self._door)
        except OSError:
            received = None
        if received is None:
            self._console.warn("the tproxy daemon has ended: the command has no network any more")
            return False
        packets.close(received[1])
        self._heard(received[0])
        return True


def run_command(
    console: Console,
    daemon: Daemon,
    wanted: Wanted,
    words: Sequence[str],
    prepare: Callable[[], None] = lambda: None,
) -> int:
    """Run a command from beginning to end; its exit status. Raises TproxyError if it could not be started."""
    if sys.platform != "linux":
        raise TproxyError(
            "commands can be run in namespaces on Linux only", "use a Linux container, or WSL 2, for that"
        )
    find(words[0], os.environ)  # before anything is made or asked
    daemon.ensure_running()
    launch = Launch(console, wanted)
    try:
        return launch.run(words, os.environ, prepare)
    finally:
        launch.close()


def connect_door() -> socket.socket:
    """A connection to the daemon's door. Raises TproxyError."""
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


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()
