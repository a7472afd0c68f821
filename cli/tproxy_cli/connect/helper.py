"""The process with root: `python -m tproxy_cli.connect.helper`, with a unix socket to the laptop's daemon as stdin.

One process does the work, and two more guard it (`guards`): they undo it should the first be killed. All end when the
daemon has gone, and everything is undone then. Should all three be killed at once, rules are left that catch nothing:
their lease runs out. The next `tproxy connect` or `disconnect` removes them, the latter by starting a helper that is
told nothing.

    daemon ──▶ {"begin": {}}                                 ◀── {"ready": {"sockets": [NAME]}} and descriptors
           ──▶ {"alive": {}}                                 a renewal of the lease, every second
           ──▶ {"change": {"add": [CIDR], "delete": [CIDR]}}
           ──▶ {"dns": {"servers": [ADDRESS]}}
           ──▶ {"resolved": {"domains": [[NAME, BOOL]]}}     ◀── {"resolved": BOOL}: whether systemd-resolved is there
           ──▶ {"verdicts": [[NUMBER, NAME or null]]}        on packets that wait in the queue
           ──▶ {"family": N, "kind": N, "count": N}          ◀── {} and that many sockets, outside of what is caught

Nothing else is understood: no path, no command, no text for a shell. What is not understood ends it.
"""

import contextlib
import ipaddress
import os
import select
import signal
import socket
import stat
import sys
from typing import Any, NoReturn

from tproxy.capture import queue
from tproxy_cli.connect import kernel, resolved
from tproxy_cli.connect.codes import FAILED, IN_USE, NO_IPTABLES, NOT_POSSIBLE
from tproxy_cli.connect.guards import Guards, detach
from tproxy_cli.connect.kernel import Kernel, KernelError
from tproxy_cli.connect.layout import NAME, QUEUE, VERDICTS, Network
from tproxy_cli.run import packets

MOST_AT_ONCE = 2048
MOST_SERVERS = 16
MOST_SOCKETS = 16


class Nonsense(Exception):
    """A message that is not understood."""


class Worker:
    """Does what the daemon says."""

    def __init__(self, daemon: socket.socket) -> None:
        self._daemon = daemon
        self._kernel = Kernel()
        self._queue: socket.socket | None = None
        self.link: resolved.Resolved | None = None

    def close(self) -> None:
        """Give up what goes with this process anyway, in good order."""
        if self.link is not None:
            self.link.close()

    def begin(self) -> None:
        """Install, and hand out the sockets. Raises KernelError, OSError, Nonsense."""
        received = packets.receive(self._daemon)
        if received is None:
            raise ConnectionError("there is nothing to begin")
        if "begin" not in received[0]:
            raise Nonsense("begin")
        self._kernel.undo()  # what a predecessor may have left
        made = self._kernel.install()
        packets.send(self._daemon, {"ready": {"sockets": list(made)}}, [sock.fileno() for sock in made.values()])
        self._queue = made.pop("queue", None)  # its answers take root
        for sock in made.values():
            sock.close()

    def serve(self, guards: Guards) -> NoReturn:
        """Until the daemon goes, which is a ConnectionError. Raises KernelError, OSError, Nonsense."""
        daemon = self._daemon.fileno()
        while True:
            readable, _, _ = select.select([daemon, *guards.descriptors], [], [])
            guards.replace([one for one in readable if one != daemon])
            if daemon not in readable:
                continue
            received = packets.receive(self._daemon)
            if received is None:
                raise ConnectionError("the daemon has gone")
            message, descriptors = received
            packets.close(descriptors)
            self._obey(message)

    def _obey(self, message: dict[str, Any]) -> None:
        match message:
            case {"verdicts": [*verdicts]} if len(verdicts) <= MOST_AT_ONCE:
                self._decide(verdicts)
            case {"alive": {}}:
                self._kernel.renew()
            case {"change": {"add": add, "delete": delete}}:
                self._kernel.change(kernel.networks(add, MOST_AT_ONCE), kernel.networks(delete, MOST_AT_ONCE))
            case {"dns": {"servers": servers}}:
                self._kernel.catch_dns(_servers(servers))
            case {"resolved": {"domains": texts}}:
                self._route_names(resolved.domains(texts))
            case {"family": int(family), "kind": int(kind), "count": int(count)} if 0 < count <= MOST_SOCKETS:
                self._make(family, kind, count)
            case _:
                raise Nonsense(", ".join(str(key)[:16] for key in list(message)[:4]))

    def _route_names(self, domains: list[resolved.Domain]) -> None:
        there = True
        try:
            self.link = self.link or resolved.Resolved()
            self.link.route(domains)
        except OSError as error:
            there = False
            if self.link is not None or not isinstance(error, FileNotFoundError):
                print(f"tproxy: {error}", file=sys.stderr)
        packets.send(self._daemon, {"resolved": there})

    def _decide(self, verdicts: list[object]) -> None:
        told = b"".join(map(_verdict, verdicts))
        if self._queue is not None:
            with contextlib.suppress(OSError):  # a full buffer: as if the packets had been lost on the way
                self._queue.send(told, socket.MSG_DONTWAIT)

    def _make(self, family: int, kind: int, count: int) -> None:
        if family not in (socket.AF_INET, socket.AF_INET6) or kind not in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            raise Nonsense("a socket of another kind")
        made: list[socket.socket] = []
        try:
            with contextlib.suppress(OSError):  # fewer, or none, say as much
                made += [kernel.fresh(family, kind) for _ in range(count)]
            packets.send(self._daemon, {}, [sock.fileno() for sock in made])
        finally:
            for sock in made:
                sock.close()


def _verdict(one: object) -> bytes:
    match one:
        case [int(number), None] if 0 <= number < 1 << 32:
            return queue.verdict(number, None, QUEUE)
        case [int(number), str(name)] if 0 <= number < 1 << 32 and name in VERDICTS:
            return queue.verdict(number, VERDICTS[name], QUEUE)
    raise Nonsense("a verdict")


def _servers(texts: object) -> list[Network]:
    """Resolvers may well be at a loopback address, of which programs have theirs."""
    if not isinstance(texts, list) or len(texts) > MOST_SERVERS:
        raise ValueError("not a list of so many servers")
    found = [ipaddress.ip_network(str(text)) for text in texts]
    if any(one.num_addresses != 1 or one.is_multicast for one in found):
        raise ValueError("not servers")
    return found


def _work(daemon: socket.socket, ready: int, guards: Guards) -> int:
    """The process that works: exit status. `ready` is told when all is installed; nothing, if it could not be."""
    worker = Worker(daemon)
    try:
        worker.begin()
        os.write(ready, b"1")
        os.close(ready)
        detach()
        worker.serve(guards)
    except ConnectionError:
        return 0
    except (KernelError, OSError, ValueError, Nonsense) as error:
        print(f"tproxy: the connection ends: {error}", file=sys.stderr)
        with contextlib.suppress(OSError):
            packets.send(daemon, {"failed": str(error)[:512]})
        return FAILED
    finally:
        worker.close()


def main() -> int:
    """The first process: exit status for the person who waits in front of sudo, and may have had enough of it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    problem = _problem()
    if problem:
        print(f"tproxy: {problem}", file=sys.stderr)
        return NOT_POSSIBLE
    os.umask(0o077)
    os.chdir("/")
    daemon = socket.socket(fileno=os.dup(0))
    daemon.set_inheritable(False)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    holder = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        holder.bind(NAME)
    except OSError:
        return IN_USE
    try:
        from tproxy.steer import iptables_library

        iptables_library.load()
    except iptables_library.LibraryError as error:
        print(f"tproxy: python-iptables cannot be used: {error}", file=sys.stderr)
        return NO_IPTABLES
    told, ready = os.pipe()
    if os.fork():
        os.close(ready)
        # As long as somebody waits for sudo, our fate is theirs; from then on nobody's.
        return 0 if os.read(told, 1) == b"1" else FAILED
    os.close(told)
    os.setsid()
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _terminated)
    status = FAILED
    try:
        guards = Guards(kernel.undo, [holder.fileno()])
        try:
            status = _work(daemon, ready, guards)
        finally:
            if kernel.undo():
                guards.dismiss()
    finally:
        os._exit(status)


def _terminated(number: int, frame: object) -> NoReturn:
    raise ConnectionError("told to end")


def _problem() -> str:
    """Why this cannot be what it is started for."""
    if os.geteuid() != 0:
        return "only root can do this"
    if not stat.S_ISSOCK(os.fstat(0).st_mode):
        return "stdin is no socket: sudo logs what goes in and out (`Defaults log_input`), which cannot work"
    return ""


if __name__ == "__main__":
    sys.exit(main())
