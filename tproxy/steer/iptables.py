"""Steering by TPROXY rules of iptables, for kernels without sk_lookup; see `iptables_layout` for what they look like.

A rule matches only while an ipset entry with a timeout is renewed from the loop that serves: by netlink, a few
microseconds for each pod. The rules never change while an attachment lasts, so that ports, leases and counters are a
matter of ipsets alone, and a helper process installs and removes them (`iptables_helper`).
"""

import collections
import contextlib
import errno
import ipaddress
import logging
import math
import os
import socket
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from tproxy.model.flow import Address
from tproxy.netns.addresses import IPAddress
from tproxy.netns.handle import Netns
from tproxy.steer.datagrams import RawAnswers, prepare
from tproxy.steer.diagnosis import explain_plainly
from tproxy.steer.emptying import emptied
from tproxy.steer.ipset import IpSets, adding
from tproxy.steer.iptables_client import Rules
from tproxy.steer.iptables_layout import OWN_MARK, Names
from tproxy.steer.listeners import open_listeners, open_receivers
from tproxy.steer.peername import open_names
from tproxy.steer.port import Answers, Attachment, Counters, Datagrams, SteeredPort
from tproxy.steer.sources import Sources
from tproxy.steer.translated import by_nftables, has_nat_table

log = logging.getLogger(__name__)

NAME = "tproxy"


class _Marks:
    """Our own connections carry a mark, which a rule lets through."""

    def add(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, OWN_MARK)

    def remove(self, sock: socket.socket) -> None:
        """Goes with the socket."""


class _Steered:
    """What attachments of either protocol have in common: rules and sets, and the ports that they steer."""

    def __init__(self, netns: Netns, sets: IpSets, names: Names) -> None:
        self._netns = netns
        self._sets = sets
        self._names = names
        self._ports: frozenset[SteeredPort] = frozenset()
        self._made: set[SteeredPort] = set()
        self._past: dict[int, Counters] = {}  # of what the kernel no longer knows
        self._message = (0, b"")  # what renews for how many seconds
        self._deadline = 0.0
        self._rules: Rules | None = None
        self._resources = contextlib.ExitStack()
        self._taken_over = False
        self._stopped = False
        self._closed = False

    def started(self, rules: Rules, resources: contextlib.ExitStack) -> None:
        """`rules` steer; `resources` are what `close` gives back, everything given before included."""
        self._rules = rules
        self._resources = resources

    @property
    def ports(self) -> frozenset[SteeredPort]:
        return self._ports

    def set_ports(self, ports: Iterable[SteeredPort]) -> None:
        wanted = frozenset(ports)
        try:
            with self._unless_taken_over():
                for port in self._ports - wanted:
                    self._remove(port)
                for port in wanted - self._ports:
                    self._add(port)
        except OSError as error:
            raise explain_plainly(error, "steer these ports") from error
        self._ports = wanted
        self._message = (0, b"")
        self._extend()

    def _add(self, port: SteeredPort) -> None:
        member = self._names.port(port.port)
        if port not in self._made:
            self._sets.create_port(member, port.port)
            self._made.add(port)
        for name in self._names.counting:
            self._sets.run(adding(name, [member]))

    def _remove(self, port: SteeredPort) -> None:
        member = self._names.port(port.port)
        self._sets.delete(self._names.lease, member)
        self._past |= self._counted(port)
        for name in self._names.counting:
            self._sets.delete(name, member)
        self._ports -= {port}

    def counters(self) -> Mapping[int, Counters]:
        if self._stopped:
            return self._past
        try:
            return self._past | self._counted(*self._ports)
        except OSError:
            return self._past  # another daemon has taken over

    def _counted(self, *ports: SteeredPort) -> dict[int, Counters]:
        packets = {name: self._sets.packets(name) for name in self._names.counting}
        passed = self._passed_counts()
        found = {}
        for port in ports:
            past = self._past.get(port.port, Counters())
            counts = {name: members.get(self._names.port(port.port), 0) for name, members in packets.items()}
            found[port.port] = Counters(
                steered=past.steered + counts[self._names.steered],
                own=past.own + counts.get(self._names.own, 0),
                lease_expired=past.lease_expired + counts[self._names.late],
                passed=passed[port.port],
            )
        return found

    def _passed_counts(self) -> collections.Counter[int]:
        """Connections let through, by port."""
        return collections.Counter()

    def renew(self, deadline: float) -> None:
        """Steer until `deadline`, in monotonic seconds; never raises."""
        self._deadline = deadline
        self._extend()

    def _extend(self) -> None:
        if self._stopped or self._taken_over:
            return
        # The kernel counts in seconds, and would take 0 for ever.
        seconds = math.ceil(round(self._deadline - time.monotonic(), 3))
        try:
            with self._unless_taken_over():
                if seconds <= 0:
                    self._sets.flush(self._names.lease)
                elif self._ports:
                    if self._message[0] != seconds:
                        members = [self._names.port(port.port) for port in self._ports]
                        self._message = (seconds, adding(self._names.lease, members, seconds))
                    self._sets.run(self._message[1])
        except OSError as error:
            # The loop has other pods to care for; without the lease this one's app serves.
            log.warning("cannot renew a lease: %s", error, extra={"netns": self._netns.id.inode, "rate_key": "lease"})

    @contextlib.contextmanager
    def _unless_taken_over(self) -> Iterator[None]:
        """Without our sets there is nothing to be done: a newer attachment has removed them."""
        try:
            yield
        except FileNotFoundError:
            if not self._taken_over:
                log.warning("a newer attachment has taken over", extra={"netns": self._netns.id.inode})
            self._taken_over = True

    def stop(self) -> None:
        if self._stopped:
            return
        with contextlib.suppress(OSError):
            self._sets.flush(self._names.lease)
        self._past = dict(self.counters())
        self._stopped = True
        if self._rules is not None:
            self._rules.remove(self._names)

    def close(self) -> None:
        if self._closed:
            return
        self.stop()
        self._ports = frozenset()
        self._closed = True
        self._resources.close()


class TproxyDatagrams(_Steered):
    """Steering of UDP in one network namespace; `tproxy.steer.port.Datagrams` says what each method is for."""

    def __init__(self, netns: Netns, sets: IpSets, names: Names, receivers: Sequence[socket.socket]) -> None:
        super().__init__(netns, sets, names)
        self._receivers = tuple(receivers)

    @property
    def receivers(self) -> Sequence[socket.socket]:
        return self._receivers

    def answers(self) -> Answers:
        return RawAnswers(self._netns, {sock.family for sock in self._receivers})


class TproxyAttachment(_Steered):
    """Steering in one network namespace; `tproxy.steer.port.Attachment` says what each method is for."""

    def __init__(
        self,
        backend: "Tproxy",
        netns: Netns,
        sets: IpSets,
        names: Names,
        listeners: Sequence[socket.socket],
        sources: Sources,
    ) -> None:
        super().__init__(netns, sets, names)
        self._backend = backend
        self._sources = sources
        self._listeners = tuple(listeners)
        self._listening = {listener.getsockname()[:2] for listener in listeners}
        self._translations = _translations(netns)
        self._passed: set[tuple[IPAddress, int]] = set()
        self._passed_past: collections.Counter[int] = collections.Counter()

    @property
    def backend(self) -> str:
        return NAME

    @property
    def listeners(self) -> Sequence[socket.socket]:
        return self._listeners

    @property
    def hears_strays(self) -> bool:
        return False  # the rules look at first packets only

    def let_through(self, connections: Collection[tuple[str, int]]) -> bool:
        if self._stopped or self._taken_over:
            return True  # nothing is steered
        wanted = {(_address(host), port) for host, port in connections}
        with self._unless_taken_over():
            for source, port in wanted - self._passed:
                self._sets.add_source(self._passed_set(source), source, port)
                self._passed.add((source, port))
            if self._passed != wanted:
                before = self._passed_packets()
                for source, port in self._passed - wanted:
                    self._sets.delete_source(self._passed_set(source), source, port)
                    self._passed.discard((source, port))
                # Their counts went with them.
                self._passed_past += before - self._passed_packets()
        return True

    def _passed_set(self, source: IPAddress) -> str:
        return self._names.passed(socket.AF_INET if source.version == 4 else socket.AF_INET6)

    def _passed_packets(self) -> collections.Counter[int]:
        """Of the sources there are now, by port."""
        families = (socket.AF_INET, socket.AF_INET6)
        return sum((self._sets.packets_to(self._names.passed(one)) for one in families), collections.Counter())

    @property
    def shows_clients(self) -> bool:
        return self._sources.shows_clients

    def upstream(self, client: Address, destination: Address) -> socket.socket:
        if (destination.host, destination.port) in self._listening:
            # Somebody inside the pod tries our own listener: passed on, it would come back to us for ever.
            raise ConnectionRefusedError(errno.ECONNREFUSED, "this is our own listener")
        return self._sources.connect(client, destination)

    def release(self, sock: socket.socket) -> None:
        self._sources.release(sock)

    def _passed_counts(self) -> collections.Counter[int]:
        return self._passed_past + (self._passed_packets() if self._passed else collections.Counter())

    def outdated(self) -> str:
        try:
            same = _translations(self._netns) == self._translations
        except OSError:
            return ""  # being closed, or no descriptors left: nothing that speaks of the pod
        return "" if same else "a mesh has taken the pod in, or let it go"

    def datagrams(self) -> Datagrams:
        return self._backend.attach_datagrams(self._netns)

    async def drained(self, timeout: float) -> bool:  # noqa: ASYNC109 - running out of time is an answer
        return await emptied(self._netns, self._listeners, self.counters().keys(), lambda: self._closed, timeout)


def _translations(netns: Netns) -> tuple[object, ...]:
    """What decides which connections the rules can take."""
    with netns.entered():
        return (by_nftables(), *(has_nat_table(family) for family in (socket.AF_INET, socket.AF_INET6)))


class Tproxy:
    """The backend; holds the process that owns the rules.

    Two attachments to one namespace, in one process or in two, don't fight: the newer takes over, in one step.
    """

    def __init__(self) -> None:
        """Raises TproxyError if this machine cannot do it; it is tried for real."""
        self._attachments: set[_Steered] = set()
        self._deadline = 0.0
        self._rules = Rules()

    @property
    def name(self) -> str:
        return NAME

    def attach(self, netns: Netns, ports: Iterable[SteeredPort], cgroup: Path | None = None) -> Attachment:
        """As the port says; `netns` stays the caller's, who may close it at once."""
        try:
            return self._attach(netns, frozenset(ports), cgroup)
        except OSError as error:
            raise explain_plainly(error, f"steer in the network namespace {netns.id.inode}") from error

    def _attach(self, netns: Netns, wanted: frozenset[SteeredPort], cgroup: Path | None) -> TproxyAttachment:
        with contextlib.ExitStack() as undo:
            inside = Netns(os.dup(netns.fileno()))
            undo.callback(inside.close)
            sets = IpSets(inside)
            undo.callback(sets.close)
            listeners = open_listeners(inside, {port.port for port in wanted}, transparent=True)
            for listener in listeners:
                undo.callback(listener.close)
            names = Names.new()
            sources = Sources(inside, _Marks(), open_names(cgroup))
            undo.callback(sources.close)
            # Rules come last: they are removed in the background, so nothing that may fail is to follow them. And what
            # the attachment sees of a mesh is from before them: one that comes meanwhile is noticed.
            attachment = TproxyAttachment(self, inside, sets, names, listeners, sources)
            self._rules.install(names, inside, {sock.family: sock.getsockname()[1] for sock in listeners})
            undo.callback(self._rules.remove, names)
            attachment.renew(self._deadline)
            attachment.set_ports(wanted)
            self._attachments.add(attachment)
            undo.callback(self._attachments.discard, attachment)
            attachment.started(self._rules, undo.pop_all())
            return attachment

    def attach_datagrams(self, netns: Netns) -> TproxyDatagrams:
        """Steer UDP in `netns`, of no port yet; `netns` stays the caller's."""
        try:
            return self._attach_datagrams(netns)
        except OSError as error:
            raise explain_plainly(error, f"steer UDP in the network namespace {netns.id.inode}") from error

    def _attach_datagrams(self, netns: Netns) -> TproxyDatagrams:
        with contextlib.ExitStack() as undo:
            inside = Netns(os.dup(netns.fileno()))
            undo.callback(inside.close)
            sets = IpSets(inside)
            undo.callback(sets.close)
            receivers = open_receivers(inside, (), transparent=True)
            for receiver in receivers:
                undo.callback(receiver.close)
                prepare(receiver)
            names = Names.new(udp=True)
            self._rules.install(names, inside, {sock.family: sock.getsockname()[1] for sock in receivers})
            undo.callback(self._rules.remove, names)
            attachment = TproxyDatagrams(inside, sets, names, receivers)
            attachment.renew(self._deadline)
            self._attachments.add(attachment)
            undo.callback(self._attachments.discard, attachment)
            attachment.started(self._rules, undo.pop_all())
            return attachment

    def renew(self, seconds: float) -> None:
        # The kernel's timeouts are whole seconds: a lease lasts up to one more than asked for.
        self._deadline = time.monotonic() + seconds
        for attachment in self._attachments:
            attachment.renew(self._deadline)
        self._rules.poll()

    def close(self) -> None:
        for attachment in list(self._attachments):
            attachment.close()
        self._rules.close()


def _address(host: str) -> IPAddress:
    """IPv4 leaves an IPv6 socket as IPv4 packets, so a mapped address is what it maps."""
    address = ipaddress.ip_address(host.partition("%")[0])
    return address.ipv4_mapped or address if isinstance(address, ipaddress.IPv6Address) else address
