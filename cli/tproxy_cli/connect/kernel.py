"""Makes and undoes everything in the kernel, step by step. For a process with root, in the laptop's network."""

import contextlib
import functools
import ipaddress
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence

from tproxy.capture import sockets
from tproxy.netns.handle import Netns
from tproxy.steer.ipset import IpSets
from tproxy_cli.connect import routes
from tproxy_cli.connect.layout import FAMILIES, IP4, LEASE_SECONDS, OWN, QUEUE, Family, Network, split

BACKLOG = 4096
MOST_NETWORKS = 60_000
"""Kept below the limit of a set."""

# Python has no names for these.
_IP_TRANSPARENT, _IP_RECVORIGDSTADDR = 19, 20
_IPV6_TRANSPARENT, _IPV6_RECVORIGDSTADDR = 75, 74
_RECEIVE_BUFFER = 1 << 20

_UNDO_TRIES = 50
_UNDO_AGAIN_SECONDS = 0.1


class KernelError(Exception):
    """What the kernel, or a library, had against it."""


class Kernel:
    """Everything of ours. Methods raise `KernelError` and OSError."""

    def __init__(self) -> None:
        self.families: Sequence[Family] = FAMILIES if routes.has_ip6() else (IP4,)
        netns = Netns.current()
        try:
            self._sets = IpSets(netns)
        finally:
            netns.close()
        self._known = 0

    def install(self) -> dict[str, socket.socket]:
        """Make it all, catching nothing yet; our sockets: `tcp4`, `udp4`, the same for IPv6, and perhaps `queue`."""
        made: dict[str, socket.socket] = {}
        try:
            for family in self.families:
                tcp, udp = _listener(family, socket.SOCK_STREAM), _listener(family, socket.SOCK_DGRAM)
                made |= {f"tcp{family.digit}": tcp, f"udp{family.digit}": udp}
                self._sets.create_networks(family.lease, family.number, LEASE_SECONDS)
                self._sets.create_networks(family.networks, family.number)
                self._sets.create_networks(family.dns, family.number)
                routes.add(family)
            ports = {
                family.digit: (made[f"tcp{family.digit}"].getsockname()[1], made[f"udp{family.digit}"].getsockname()[1])
                for family in self.families
            }
            try:
                _each(self.families, lambda rules, digit: rules.install(*ports[digit], True))
                made["queue"] = sockets.asking(QUEUE)
            except (KernelError, OSError):  # a kernel without packet queues
                _each(self.families, lambda rules, digit: rules.install(*ports[digit], False))
        except BaseException:
            for sock in made.values():
                sock.close()
            raise
        return made

    def renew(self) -> None:
        """Catch for another few seconds."""
        for family in self.families:
            self._sets.add_networks(family.lease, family.halves)

    def change(self, add: Sequence[Network], delete: Sequence[Network]) -> None:
        """Change what is caught."""
        self._known += len(add) - len(delete)
        if self._known > MOST_NETWORKS:
            raise KernelError(f"more than {MOST_NETWORKS} addresses")
        for family in self.families:
            version = 6 if family.digit == "6" else 4
            self._sets.delete_networks(family.networks, split([one for one in delete if one.version == version]))
            self._sets.add_networks(family.networks, split([one for one in add if one.version == version]))

    def catch_dns(self, servers: Sequence[Network]) -> None:
        """Catch port 53 of these hosts and of no others."""
        for family in self.families:
            version = 6 if family.digit == "6" else 4
            self._sets.flush(family.dns)
            self._sets.add_networks(family.dns, [one for one in servers if one.version == version])

    def undo(self) -> list[str]:
        """Undo everything that is there, whoever made it; each step by itself. What went wrong."""
        errors: list[str] = []
        for family in self.families:
            _attempt(errors, functools.partial(self._sets.flush, family.lease))
        _attempt(errors, functools.partial(_each, self.families, lambda rules, _: rules.remove()))
        for family in self.families:
            _attempt(errors, functools.partial(routes.remove_rule, family))
            _attempt(errors, functools.partial(routes.remove_route, family))
            for name in family.sets:
                _attempt(errors, functools.partial(self._sets.destroy, name))
        return errors

    def close(self) -> None:
        """Release the socket. Idempotent."""
        self._sets.close()


def fresh(family: int, kind: int) -> socket.socket:
    """A socket whose packets are not caught, and which may speak from any address. Raises OSError."""
    made = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, OWN)
        _set_transparent(made)
    except BaseException:
        made.close()
        raise
    return made


def _listener(family: Family, kind: int) -> socket.socket:
    made = fresh(family.number, kind)
    try:
        if family.number == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_DGRAM:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            six = family.number == socket.AF_INET6
            level, option = (
                (socket.IPPROTO_IPV6, _IPV6_RECVORIGDSTADDR) if six else (socket.IPPROTO_IP, _IP_RECVORIGDSTADDR)
            )
            made.setsockopt(level, option, 1)
        made.bind((family.loopback, 0))
        if kind == socket.SOCK_STREAM:
            made.listen(BACKLOG)
    except BaseException:
        made.close()
        raise
    return made


def _set_transparent(sock: socket.socket) -> None:
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)


def _attempt(errors: list[str], step: Callable[[], None]) -> None:
    """Each step of an undo by itself: what went wrong with one is no reason to leave the others."""
    try:
        step()
    except FileNotFoundError:
        pass
    except (OSError, KernelError) as error:
        errors.append(str(error))


def _each(families: Sequence[Family], change: Callable[..., None]) -> None:
    """Change the rules of each family, in a process of its own, at the same time. Raises KernelError."""

    def work(family: Family) -> None:
        from tproxy_cli.connect.rules import Rules

        change(Rules(family), family.digit)

    children = [_fork(functools.partial(work, family)) for family in families]
    complaints = [complaint for child in children if (complaint := _join(*child))]
    if complaints:
        raise KernelError("; ".join(complaints))


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
        os.write(write, f"{type(error).__name__}: {error}".encode()[:2048])
    finally:
        # Not exit: python-iptables commits its tables once more when they are collected.
        os._exit(status)


def _join(pid: int, read: int) -> str:
    with os.fdopen(read, "rb") as pipe:
        complaint = pipe.read().decode(errors="replace")
    _, status = os.waitpid(pid, 0)
    return complaint if complaint or not status else f"the process that changes rules ended with status {status}"


def undo() -> bool:
    """Undo everything that is there; whether that could be done, what could not is said.

    What somebody else holds for a moment, as who lists sets does, is tried again.
    """
    errors: list[str] = []
    try:
        with contextlib.closing(Kernel()) as kernel:
            for _ in range(_UNDO_TRIES):
                errors = kernel.undo()
                if not errors:
                    return True
                time.sleep(_UNDO_AGAIN_SECONDS)
    except Exception as error:  # whoever calls has more to do
        errors = [f"{type(error).__name__}: {error}"]
    print(f"tproxy: undoing the connection: {'; '.join(errors)}", file=sys.stderr)
    return False


def networks(texts: object, most: int) -> list[Network]:
    """What a message says of addresses. Raises ValueError."""
    if not isinstance(texts, list) or len(texts) > most:
        raise ValueError("not a list of so many networks")
    found = [ipaddress.ip_network(text) for text in texts if isinstance(text, str)]
    if len(found) != len(texts) or any(one.is_loopback or one.is_multicast for one in found):
        raise ValueError("not networks that can be caught")
    return found
