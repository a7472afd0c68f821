"""A run from the command line's side, from nothing to the command's exit status.

    command line ──fork──▶ process inside: namespaces, rules, sockets       while the daemon opens a way to the cluster
                 ◀── descriptors ──┘
                 ──▶ daemon: the sockets
                 ──fork──▶ the command, in the namespaces

The command line keeps the sockets as well: a daemon that dies is started anew and is given them again.
"""

import os
import queue
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from tproxy.env.environ import FILES_VARIABLE, combine
from tproxy.errors import TproxyError
from tproxy.netns.userns import Namespaces
from tproxy_cli import paths
from tproxy_cli.client import Daemon
from tproxy_cli.run import begin, inside, mounts, packets, restricted
from tproxy_cli.run.command import Command, find
from tproxy_cli.run.conversation import Conversation, Wanted
from tproxy_cli.run.packets import Json
from tproxy_cli.ui.console import Console

__all__ = ["Wanted", "run_command"]

SET_UP_SECONDS = 20.0


@dataclass(slots=True)
class _Made:
    """What the process inside has made."""

    namespaces: Namespaces
    sockets: Sequence[str]
    descriptors: Sequence[int]


class Launch:
    """One run."""

    def __init__(self, console: Console, daemon: Daemon, wanted: Wanted) -> None:
        self._console = console
        self._daemon = daemon
        self._wanted = wanted
        self._inside, theirs = packets.pair()
        self._factory, factory = packets.pair()
        scratch = paths.runtime_dir() / "inside"  # what is mounted there is seen by this run alone
        scratch.mkdir(mode=0o700, exist_ok=True)
        if wanted.sudo and os.geteuid() != 0:
            try:
                self._wait_inside = begin.by_sudo(self._inside, theirs, factory, str(scratch))
            except BaseException:
                for one in (self._inside, theirs, self._factory, factory):
                    one.close()
                raise
        else:
            self._wait_inside = begin.forked(theirs, factory, str(scratch))
        self._words: Sequence[str] = ()
        self._conversation: Conversation | None = None
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
        self._words = words
        self._conversation = conversation = Conversation(self._console)
        opened = conversation.open(self._wanted, words)
        environment = self._combined(environment, conversation.variables)
        path = find(words[0], environment)
        self._made = made = self._receive_made()
        self._mount(opened["resolvConf"])
        serving = conversation.serve(made.sockets, made.descriptors, self._factory.fileno())
        if files := serving["files"]:
            environment = {**environment, FILES_VARIABLE: files["directory"]}
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
        self._wait_inside()
        if self._made is not None:
            inside.end_all(self._made.namespaces)  # that process may have been killed before it could
            packets.close([*self._made.namespaces.descriptors, *self._made.descriptors])
        self._factory.close()
        if self._conversation is not None:
            self._conversation.end()

    def _combined(self, own: Mapping[str, str], given: Mapping[str, str]) -> Mapping[str, str]:
        if not given:
            return own
        combined, lost = combine(own, given, (self._wanted.given or {})["include"])
        if lost:
            self._console.hint(f"set on the laptop, and so not as in the container: {', '.join(lost)}")
        return combined

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

    # While the command runs

    def _wait(self, command: Command) -> int:
        back: queue.SimpleQueue[Conversation] = queue.SimpleQueue()
        woken, wake = socket.socketpair()
        poll = select.poll()
        for one in (command, self._inside, woken, self._conversation):
            assert one is not None  # noqa: S101
            poll.register(one, select.POLLIN)
        patience: float | None = None
        with woken, wake:
            while True:
                ready = {descriptor for descriptor, _ in poll.poll(patience)}
                if not ready:
                    command.kill(signal.SIGKILL)
                if command.fileno() in ready and (status := command.handle()) is not None:
                    return status
                if self._inside.fileno() in ready:
                    poll.unregister(self._inside)
                    self._console.warn("somebody has ended the process that keeps the command's network")
                    command.kill(signal.SIGTERM)
                    patience = inside.TERM_SECONDS * 1000
                conversation = self._conversation
                if conversation is not None and conversation.fileno() in ready and not conversation.news():
                    poll.unregister(conversation)
                    self._conversation = None
                    conversation.close()
                    self._lost(conversation, back, wake)
                if woken.fileno() in ready:
                    woken.recv(1)
                    self._conversation = back.get()
                    poll.register(self._conversation, select.POLLIN)

    def _lost(self, conversation: Conversation, back: "queue.SimpleQueue[Conversation]", wake: socket.socket) -> None:
        """The daemon has ended. Unless that was somebody's wish a new one takes over, which may take a while."""
        if conversation.dismissed:
            self._console.warn(
                "`tproxy quit` has ended the daemon: the command has no network any more", "start the command again"
            )
            return

        def attach() -> None:
            try:
                back.put(self._attach())
                wake.send(b"!")
            except (TproxyError, OSError) as error:
                self._console.warn(f"the tproxy daemon has died, and another one cannot take over: {error}")

        self._console.warn("the tproxy daemon has died; another one takes over, open connections are lost")
        threading.Thread(target=attach, daemon=True).start()

    def _attach(self) -> Conversation:
        """Give everything to a new daemon. Raises TproxyError."""
        assert self._made is not None  # noqa: S101
        self._daemon.ensure_running()
        conversation = Conversation(self._console)
        try:
            conversation.open(_without_environment(self._wanted), self._words)
            conversation.serve(self._made.sockets, self._made.descriptors, self._factory.fileno())
        except BaseException:
            conversation.close()
            raise
        return conversation


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
    launch = Launch(console, daemon, wanted)
    try:
        return launch.run(words, os.environ, prepare)
    finally:
        launch.close()


def _without_environment(wanted: Wanted) -> Wanted:
    """The command has had it."""
    return wanted if wanted.given is None else replace(wanted, given={**wanted.given, "environment": False})


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()
