"""Steering by the kernel's socket lookup: `bpf/sk_lookup.bpf.c`, its maps, and the sockets it hands over.

Nothing is pinned. A link lives as long as the descriptor this process holds, so death in whatever form detaches it,
and a process that hangs lets the lease run out. (A child forked without exec would share the descriptors: the daemon
must have none while it steers.)
"""

import contextlib
import dataclasses
import errno
import os
import socket
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from tproxy.errors import TproxyError
from tproxy.model.flow import Address
from tproxy.netns.handle import Netns
from tproxy.steer import layout, libbpf
from tproxy.steer.datagrams import RawAnswers, prepare
from tproxy.steer.diagnosis import explain
from tproxy.steer.emptying import emptied
from tproxy.steer.listeners import open_listeners, open_receivers
from tproxy.steer.peername import open_names
from tproxy.steer.port import Answers, Attachment, Counters, Datagrams, SteeredPort
from tproxy.steer.sources import Sources
from tproxy.steer.takeover import take_over

NAME = "sk_lookup"
OBJECT = Path(__file__).with_name("sk_lookup.bpf.o")


@contextlib.contextmanager
def _explained(doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise explain(error, doing) from error


class _OwnMap:
    """The sources of our own connections, which the program passes."""

    def __init__(self, own: libbpf.Map) -> None:
        self._map = own
        self._keys: dict[socket.socket, bytes] = {}

    def add(self, sock: socket.socket) -> None:
        key = layout.source_key(*sock.getsockname()[:2])
        self._map.update(key, layout.OWN_VALUE)
        self._keys[sock] = key

    def remove(self, sock: socket.socket) -> None:
        # Only of a closed socket, because a SYN repeated in between would be steered.
        key = self._keys.pop(sock, None)
        if key is not None:
            self._map.delete(key)

    def close(self) -> None:
        """The map goes; without a link nothing needs an exemption."""
        self._keys.clear()


class _Steered:
    """What attachments of either protocol have in common: a program with its maps, and the ports it steers."""

    def __init__(self, program: libbpf.Object, sockets: Iterable[socket.socket]) -> None:
        """Prepares the maps of a loaded `program`. Raises OSError."""
        self._ports_map = program.map(layout.PORTS_MAP)
        self._link: libbpf.Link | None = None
        self._resources = contextlib.ExitStack()
        self._ports: frozenset[SteeredPort] = frozenset()
        self._past: dict[int, Counters] = {}  # what maps no longer know: of ports not steered now
        self._closed = False
        listen = program.map(layout.LISTENERS_MAP)
        for sock in sockets:
            listen.update(layout.listener_key(sock.family), layout.listener_value(sock.fileno()))

    def started(self, link: libbpf.Link, resources: contextlib.ExitStack) -> None:
        """`link` steers; `resources` are what `close` gives back, everything given before included."""
        self._link = link
        self._resources = resources

    @property
    def ports(self) -> frozenset[SteeredPort]:
        return self._ports

    def set_ports(self, ports: Iterable[SteeredPort]) -> None:
        wanted = frozenset(ports)
        zeros = bytes(layout.COUNTERS_SIZE * libbpf.possible_cpus())
        with _explained("steer these ports"):
            for port in wanted - self._ports:
                self._ports_map.update(layout.port_key(port), zeros)
                self._ports |= {port}
            for port in self._ports - wanted:
                self._past[port.port] = self._count(port)
                self._ports -= {port}
                self._ports_map.delete(layout.port_key(port))

    def counters(self) -> Mapping[int, Counters]:
        return self._past | {port.port: self._count(port) for port in self._ports}

    def stop(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

    def close(self) -> None:
        if self._closed:
            return
        self.stop()
        self._past = dict(self.counters())
        self._ports = frozenset()
        self._closed = True
        # Sockets not yet released are still the caller's.
        self._resources.close()

    def _count(self, port: SteeredPort) -> Counters:
        values = self._ports_map.lookup_per_cpu(layout.port_key(port), layout.COUNTERS_SIZE)
        now = Counters() if values is None else layout.counters(values)
        past = self._past.get(port.port, Counters())
        return Counters(*map(sum, zip(dataclasses.astuple(past), dataclasses.astuple(now), strict=True)))


class SkLookupDatagrams(_Steered):
    """Steering of UDP in one network namespace; `tproxy.steer.port.Datagrams` says what each method is for."""

    def __init__(self, netns: Netns, program: libbpf.Object, receivers: Sequence[socket.socket]) -> None:
        """Prepares the maps of a loaded `program`. Raises OSError."""
        super().__init__(program, receivers)
        self._netns = netns
        self._receivers = tuple(receivers)

    @property
    def receivers(self) -> Sequence[socket.socket]:
        return self._receivers

    def answers(self) -> Answers:
        return RawAnswers(self._netns, {sock.family for sock in self._receivers})


class SkLookupAttachment(_Steered):
    """Steering in one network namespace; `tproxy.steer.port.Attachment` says what each method is for.

    An accepted socket may carry a port that is not in `ports`: `set_ports` removed it during the handshake, or somebody
    inside the pod connected to our listener's own port.
    """

    def __init__(
        self,
        backend: "SkLookup",
        netns: Netns,
        program: libbpf.Object,
        listeners: Sequence[socket.socket],
        sources: Sources,
    ) -> None:
        """Prepares the maps of a loaded `program`. Raises OSError."""
        super().__init__(program, listeners)
        self._backend = backend
        self._netns = netns
        self._sources = sources
        self._listeners = tuple(listeners)
        self._listening = {listener.getsockname()[:2] for listener in listeners}
        self._passed_map = program.map(layout.PASSED_MAP)
        self._passed: set[bytes] = set()

    @property
    def backend(self) -> str:
        return NAME

    @property
    def listeners(self) -> Sequence[socket.socket]:
        return self._listeners

    @property
    def hears_strays(self) -> bool:
        return True  # the program is asked about whatever has no connection

    def let_through(self, connections: Collection[tuple[str, int]]) -> bool:
        wanted = {layout.passed_key(host, port) for host, port in connections}
        for key in self._passed - wanted:
            self._passed_map.delete(key)
            self._passed.discard(key)
        for key in wanted - self._passed:
            self._passed_map.update(key, layout.PASSED_VALUE)
            self._passed.add(key)
        return True

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

    def outdated(self) -> str:
        return ""  # the program comes after whatever translates

    def datagrams(self) -> Datagrams:
        return self._backend.attach_datagrams(self._netns)

    async def drained(self, timeout: float) -> bool:  # noqa: ASYNC109 - running out of time is an answer
        return await emptied(self._netns, self._listeners, self.counters().keys(), lambda: self._closed, timeout)


class SkLookup:
    """The backend; holds the one lease of all its attachments.

    Two attachments to one namespace, in one process or in two, don't fight: the newer takes over (see `takeover`).
    """

    def __init__(self) -> None:
        """Raises TproxyError if this machine cannot do it; the program is tried for real."""
        if not OBJECT.exists():
            raise TproxyError(f"the kernel program {OBJECT} has not been compiled", "run `make bpf`")
        try:
            libbpf.library()
        except OSError as error:
            raise TproxyError(f"cannot load {libbpf.LIBRARY}: {error}", "run `apt install libbpf1`") from error
        self._attachments: set[_Steered] = set()
        with _explained("steer with sk_lookup"):
            self._lease = libbpf.OwnedMap.array(layout.LEASE_MAP, 8, 1)
            try:
                self._load().close()
            except BaseException:
                self._lease.close()
                raise

    @property
    def name(self) -> str:
        return NAME

    def attach(self, netns: Netns, ports: Iterable[SteeredPort], cgroup: Path | None = None) -> Attachment:
        """As the port says; `netns` stays the caller's, who may close it at once."""
        with _explained(f"steer in the network namespace {netns.id.inode}"), contextlib.ExitStack() as undo:
            inside = Netns(os.dup(netns.fileno()))
            undo.callback(inside.close)
            program = self._load()
            undo.callback(program.close)
            wanted = frozenset(ports)
            listeners = open_listeners(inside, {port.port for port in wanted})
            for listener in listeners:
                undo.callback(listener.close)
            own = _OwnMap(program.map(layout.OWN_MAP))
            undo.callback(own.close)
            sources = Sources(inside, own, open_names(cgroup))
            undo.callback(sources.close)
            attachment = SkLookupAttachment(self, inside, program, listeners, sources)
            attachment.set_ports(wanted)
            link = program.attach_netns(layout.PROGRAM, inside.fileno())
            undo.callback(link.close)
            take_over(inside, link, (layout.PROGRAM, layout.UDP_PROGRAM))
            self._attachments.add(attachment)
            undo.callback(self._attachments.discard, attachment)
            attachment.started(link, undo.pop_all())
            return attachment

    def attach_datagrams(self, netns: Netns) -> SkLookupDatagrams:
        """Steer UDP in `netns`, of no port yet; `netns` stays the caller's."""
        doing = f"steer UDP in the network namespace {netns.id.inode}"
        with _explained(doing), contextlib.ExitStack() as undo:
            inside = Netns(os.dup(netns.fileno()))
            undo.callback(inside.close)
            program = self._load()
            undo.callback(program.close)
            receivers = open_receivers(inside, ())
            for receiver in receivers:
                undo.callback(receiver.close)
                prepare(receiver)
            attachment = SkLookupDatagrams(inside, program, receivers)
            link = program.attach_netns(layout.UDP_PROGRAM, inside.fileno())
            undo.callback(link.close)
            take_over(inside, link, (layout.UDP_PROGRAM,))
            self._attachments.add(attachment)
            undo.callback(self._attachments.discard, attachment)
            attachment.started(link, undo.pop_all())
            return attachment

    def renew(self, seconds: float) -> None:
        # CLOCK_MONOTONIC is what bpf_ktime_get_ns() reads.
        deadline = time.monotonic_ns() + int(seconds * 1e9)
        self._lease.update(layout.LEASE_KEY, layout.lease_value(deadline))

    def close(self) -> None:
        for attachment in list(self._attachments):
            attachment.close()
        self._lease.close()

    def _load(self) -> libbpf.Object:
        """The program in the kernel, attached nowhere. Raises OSError."""
        program = libbpf.Object(OBJECT)
        try:
            program.share(layout.LEASE_MAP, self._lease)
            program.load()
        except BaseException:
            program.close()
            raise
        return program
