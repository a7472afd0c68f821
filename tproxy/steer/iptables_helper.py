"""The process that owns the TPROXY rules: `python -m tproxy.steer.iptables_helper DESCRIPTOR`, a socket to the daemon.

It installs and removes rules as the daemon asks, and when the socket closes, however the daemon came to its end, it
undoes every one of them. It never renews a lease: that is the daemon's, and with a daemon that hangs it runs out.

The rules themselves are the work of processes that it forks, one for a namespace, a family and a change (see
`iptables_rules`). Its own life begins with exec, so none of the daemon's threads are in them.
"""

import contextlib
import fcntl
import functools
import gc
import json
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tproxy.netns.handle import Netns, unshare
from tproxy.steer import iptables_library
from tproxy.steer.ipset import IpSets
from tproxy.steer.iptables_layout import Names, owner, replaced

LARGEST_MESSAGE = 65536
LOCK_SECONDS = 0.3
FAMILIES = (socket.AF_INET, socket.AF_INET6)


class RulesError(Exception):
    """What the kernel or iptables had against it; `errno` is 0 where nobody knows."""

    def __init__(self, message: str, number: int = 0) -> None:
        super().__init__(message)
        self.errno = number


@dataclass(slots=True)
class Place:
    """A namespace with rules of ours."""

    names: Names
    netns: Netns
    sets: IpSets

    def close(self) -> None:
        """Release the namespace."""
        self.sets.close()
        self.netns.close()


class Helper:
    """All rules of one daemon."""

    def __init__(self) -> None:
        self._places: dict[str, Place] = {}

    def install(self, names: Names, netns: Netns, listeners: Mapping[int, int]) -> None:
        """Rules and sets in `netns`, which is ours from now on; `listeners` are ports by family. Raises RulesError."""
        place = Place(names, netns, IpSets(netns))
        self._places[names.chain] = place
        try:
            with _locked(netns):
                place.sets.create_list(names.lease, timeout=1)
                for counting in names.counting:
                    place.sets.create_list(counting)
                for family in () if names.udp else FAMILIES:
                    place.sets.create_sources(names.passed(family), family)
                _change(netns, "install", names, listeners)
        except (OSError, RulesError) as error:
            self.remove(names)
            text = (error.strerror or "") if isinstance(error, OSError) else str(error)
            raise RulesError(text, error.errno or 0) from error

    def sweep(self, names: Names) -> list[str]:
        """After `install`: destroy the sets of those whose rules it has replaced, and say what went wrong."""
        place = self._places[names.chain]
        errors: list[str] = []
        for other in {found for name in place.sets.names() if (found := owner(name))} - {names}:
            if replaced(other, names):
                _attempt(errors, functools.partial(_destroy_sets, place.sets, other))
        return errors

    def adopt(self, names: Names, netns: Netns) -> None:
        """Be answerable for what another helper of the same daemon has installed."""
        self._places[names.chain] = Place(names, netns, IpSets(netns))

    def remove(self, names: Names) -> list[str]:
        """Undo `install`, and say what went wrong."""
        place = self._places.pop(names.chain, None)
        if place is None:
            return []
        errors: list[str] = []
        with contextlib.closing(place), _locked(place.netns, errors):
            _attempt(errors, lambda: place.sets.flush(names.lease))
            _attempt(errors, lambda: _change(place.netns, "remove", names, dict.fromkeys(FAMILIES, 0)))
            _attempt(errors, lambda: _destroy_sets(place.sets, names))
        return errors

    def end(self) -> None:
        """Undo everything, and first of all what makes a difference to clients."""
        for place in self._places.values():
            _attempt([], functools.partial(place.sets.flush, place.names.lease))
        for place in list(self._places.values()):
            for error in self.remove(place.names):
                print(f"tproxy: undoing {place.names.chain}: {error}", file=sys.stderr)


def _attempt(errors: list[str], step: Callable[[], None]) -> None:
    """Each step of an undo by itself: what went wrong with one is no reason to leave the others."""
    try:
        step()
    except FileNotFoundError:
        pass  # gone already: another daemon has taken over
    except (OSError, RulesError) as error:
        errors.append(str(error))


def _destroy_sets(sets: IpSets, names: Names) -> None:
    errors: list[str] = []
    present = sets.names()
    ours = [name for name in present if owner(name) == names]
    lists = [name for name in (names.lease, *names.counting) if name in ours]
    for name in lists:
        _attempt(errors, functools.partial(sets.flush, name))
    if ours == present and not errors:
        return sets.destroy_all()
    for name in ours:
        _attempt(errors, functools.partial(sets.destroy, name))
    if errors:
        raise RulesError("; ".join(errors))


@contextlib.contextmanager
def _locked(netns: Netns, errors: list[str] | None = None) -> Iterator[None]:
    """One change at a time in a namespace, whoever's: every commit replaces the whole table.

    With `errors` it goes on without the lock when that cannot be had, else it raises RulesError.
    """
    # A file description of our own, because the daemon has the one that we were given.
    file = os.open(f"/proc/self/fd/{netns.fileno()}", os.O_RDONLY | os.O_CLOEXEC)
    deadline = time.monotonic() + LOCK_SECONDS
    try:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(0.005)
                    continue
                if errors is None:
                    raise RulesError("somebody else keeps the network namespace locked") from None
                errors.append("somebody else keeps the network namespace locked")
                break
        yield
    finally:
        os.close(file)


def _change(netns: Netns, what: str, names: Names, listeners: Mapping[int, int]) -> None:
    """`install` or `remove` in each family, at the same time. Raises RulesError."""

    def change(family: int, port: int) -> None:
        from tproxy.steer.iptables_rules import Mangle  # the daemon imports this module, and has not loaded the library

        with netns.entered():
            table = Mangle(socket.AddressFamily(family))
            if what == "install":
                table.install(names, port)
            else:
                table.remove(names)

    _wait([_fork(functools.partial(change, family, port)) for family, port in listeners.items()])


def _fork(work: Callable[[], None]) -> tuple[int, int]:
    """A child that works: its process id, and the pipe in which it complains."""
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write)
        return pid, read
    status = 1
    try:
        work()
        status = 0
    except BaseException as error:
        number = getattr(error, "errno", 0)
        os.write(write, f"{number} {type(error).__name__}: {error}".encode()[:4096])
    finally:
        # Not exit: python-iptables commits its tables once more when they are collected.
        os._exit(status)


def _wait(children: Sequence[tuple[int, int]]) -> None:
    """Raises RulesError with what any of them had to say."""
    complaints = []
    number = 0
    for pid, read in children:
        with os.fdopen(read, "rb") as pipe:
            complaint = pipe.read().decode(errors="replace")
        _, status = os.waitpid(pid, 0)
        if complaint or status:
            ended = f"0 the process that changes the rules ended with status {os.waitstatus_to_exitcode(status)}"
            found, _, text = (complaint or ended).partition(" ")
            number = number or int(found)
            complaints.append(text)
    if complaints:
        raise RulesError("; ".join(complaints), number)


def probe() -> None:
    """Try it for real, in a namespace that goes with the process in it. Raises RulesError."""

    def work() -> None:
        unshare()
        Helper().install(Names.new(), Netns.current(), {socket.AF_INET: 1})

    _wait([_fork(work)])


def _serve(daemon: socket.socket) -> None:
    """Do as the daemon says, in order, until it is gone."""
    helper = Helper()

    def answer(chain: str, error: str = "", number: int = 0) -> None:
        with contextlib.suppress(OSError):  # a daemon that has gone meanwhile shows in the next receive
            daemon.send(json.dumps({"chain": chain, "error": error, "errno": number}).encode())

    try:
        iptables_library.load()
        probe()
    except iptables_library.LibraryError as error:
        return answer("", str(error))
    except RulesError as error:
        return answer("", str(error), error.errno)
    answer("")
    gc.freeze()  # what is loaded stays: children need no copies of its pages
    removals: deque[Names] = deque()
    try:
        while True:
            try:
                # Steering is over before a removal is asked for, so whoever waits for an installation goes first.
                daemon.setblocking(not removals)
                message, descriptors, _, _ = socket.recv_fds(daemon, LARGEST_MESSAGE, 1)
            except BlockingIOError:
                names = removals.popleft()
                answer(names.chain, "; ".join(helper.remove(names)))
                continue
            if not message:
                return
            request = json.loads(message)
            names = Names(request["chain"])
            if request["do"] == "remove":
                removals.append(names)
                continue
            try:
                netns = Netns(descriptors[0])
                if request["do"] == "adopt":
                    helper.adopt(names, netns)
                    continue
                helper.install(names, netns, {int(family): port for family, port in request["listeners"].items()})
            except (OSError, RulesError) as error:
                answer(names.chain, str(error), error.errno or 0)
                continue
            answer(names.chain)
            for complaint in helper.sweep(names):
                print(f"tproxy: sweeping: {complaint}", file=sys.stderr)
    except ConnectionError:
        return
    finally:
        helper.end()


def main() -> None:
    """Until the daemon ends; signals meant for it are not meant for us."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=int(sys.argv[1])) as daemon:
        daemon.set_inheritable(False)
        _serve(daemon)


if __name__ == "__main__":
    main()
