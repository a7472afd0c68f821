"""A run's UDP: a flow per source and destination, with a socket inside that answers from the destination's address.

A flow's first datagram comes to the socket that catches all; the flow then has a connected socket inside, to which the
kernel gives what follows. Flows end when nothing has passed for a while, and the one that has been quiet for longest
ends early when there are too many.
"""

import asyncio
import logging
import socket
from collections import deque
from typing import Protocol, cast

from tproxy.capture import sockets
from tproxy.model.flow import Address, ResetReason
from tproxy.tasks import Tasks
from tproxy_cli.daemon.outbound.port import Outbound
from tproxy_cli.daemon.runs.places import Places

log = logging.getLogger(__name__)

MOST_FLOWS = 4096
IDLE_SECONDS = 60.0
"""As the kernel's connection tracking has it, more or less, and the node's side of a flow."""

SWEEP_SECONDS = 5.0
LONGEST = 65535
_BURST = 64
_EARLY = 16
"""Datagrams that wait for a flow's sockets."""

Key = tuple[Address, Address]


class Far(Protocol):
    """The far side of a flow."""

    def send(self, payload: bytes) -> bool:
        """Send one datagram, or drop it."""

    def close(self) -> None:
        """End it."""


class Sockets(Protocol):
    """Makes sockets where the programs are."""

    async def socket(self, family: int, kind: int) -> socket.socket:
        """An unbound, non-blocking one, whose packets are not caught. Raises OSError."""


class Datagrams:
    """Serves the catching sockets until `close`; takes them over."""

    def __init__(self, places: Places, inside: Sockets) -> None:
        self._places = places
        self._inside = inside
        self._loop = asyncio.get_running_loop()
        self._flows: dict[Key, Flow] = {}  # in the order of their last datagram from inside
        self._sockets: list[socket.socket] = []
        self._tasks = Tasks("datagrams")

    @property
    def count(self) -> int:
        """Flows that are open."""
        return len(self._flows)

    def serve(self, catching: list[socket.socket]) -> None:
        """Begin."""
        self._sockets = catching
        for sock in catching:
            sock.setblocking(False)
            self._loop.add_reader(sock, self._read, sock)
        self._tasks.start(self._sweep(), "sweep")

    async def close(self) -> None:
        """End all flows and close the sockets."""
        for sock in self._sockets:
            self._loop.remove_reader(sock)
            sock.close()
        for flow in list(self._flows.values()):
            flow.close()
        await self._tasks.close()

    def _read(self, sock: socket.socket) -> None:
        for _ in range(_BURST):
            try:
                payload, ancillary, _, peer = sock.recvmsg(LONGEST, sockets.ANCILLARY_SPACE)
            except BlockingIOError:
                return
            except OSError as error:
                log.info("udp: %s", error)
                return
            destination = sockets.original_destination(ancillary)
            if destination is not None:
                self.caught((Address(peer[0], peer[1]), destination), payload)

    def caught(self, key: Key, payload: bytes) -> None:
        """A datagram that does not belong to a flow's own socket."""
        flow = self._flows.get(key)
        if flow is None:
            if len(self._flows) >= MOST_FLOWS:
                next(iter(self._flows.values())).close()
            flow = self._flows[key] = Flow(key, self)
            flow.starting = self._tasks.start(self._start(flow), "flow")
        flow.from_inside(payload)

    async def _start(self, flow: "Flow") -> None:
        source, destination = flow.key
        try:
            family = socket.AF_INET6 if ":" in destination.host else socket.AF_INET
            near = await self._inside.socket(family, socket.SOCK_DGRAM)
            try:
                sockets.answering(near, destination, source)
            except BaseException:
                near.close()
                raise
            flow.take_near(near)
            flow.take_far(await self.far(flow, destination))
        except OSError as error:
            log.info("udp to %s: %s", destination, error)
            flow.close()

    async def far(self, flow: "Flow", destination: Address) -> Far:
        """The far side of a new flow. Raises OSError."""
        if self._places.in_cluster(destination.host):
            return _ClusterFar(self._places.outbound, destination, flow)
        far = _LaptopFar(flow)
        await self._loop.create_datagram_endpoint(lambda: far, remote_addr=(destination.host, destination.port))
        return far

    def moved(self, flow: "Flow") -> None:
        """A datagram from inside: the flow is the one that has been quiet for the shortest time."""
        if self._flows.pop(flow.key, None) is not None:
            self._flows[flow.key] = flow

    def forget(self, flow: "Flow") -> None:
        """It is over."""
        if self._flows.get(flow.key) is flow:
            del self._flows[flow.key]

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            limit = self._loop.time() - IDLE_SECONDS
            for flow in [flow for flow in self._flows.values() if flow.active_at < limit]:
                flow.close()


class Flow:
    """One source and one destination; `active_at` is loop time."""

    def __init__(self, key: Key, owner: Datagrams) -> None:
        self.key = key
        self.starting: asyncio.Task[None] | None = None
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self.active_at = self._loop.time()
        self._near: socket.socket | None = None
        self._far: Far | None = None
        self._early: deque[bytes] = deque(maxlen=_EARLY)
        self._closed = False

    def take_near(self, near: socket.socket) -> None:
        """The socket inside, which answers the program."""
        if self._closed:
            near.close()
            return
        self._near = near
        self._loop.add_reader(near, self._read, near)

    def take_far(self, far: Far) -> None:
        """The far side; what has waited for it goes out."""
        if self._closed:
            far.close()
            return
        self._far = far
        while self._early:
            far.send(self._early.popleft())

    def from_inside(self, payload: bytes) -> None:
        """A datagram of the program's."""
        self.active_at = self._loop.time()
        self._owner.moved(self)
        if self._far is not None:
            self._far.send(payload)
        else:
            self._early.append(payload)

    def datagram(self, payload: bytes) -> None:
        """A datagram of the destination's."""
        self.active_at = self._loop.time()
        if self._near is not None:
            try:
                self._near.send(payload)
            except BlockingIOError:
                pass  # dropped, as UDP does
            except OSError:
                self.close()  # nobody is there any more

    def flow_ended(self, reason: ResetReason, detail: str) -> None:
        """The far side is over; the next datagram begins a new flow."""
        self.close()

    def close(self) -> None:
        """End it. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._owner.forget(self)
        if self.starting is not None:
            self.starting.cancel()
        if self._near is not None:
            self._loop.remove_reader(self._near)
            self._near.close()
        if self._far is not None:
            self._far.close()

    def _read(self, near: socket.socket) -> None:
        for _ in range(_BURST):
            try:
                payload = near.recv(LONGEST)
            except BlockingIOError:
                return
            except OSError:  # ECONNREFUSED: the program has closed its socket
                self.close()
                return
            self.from_inside(payload)
            if self._closed:
                return


class _ClusterFar:
    def __init__(self, outbound: Outbound, destination: Address, flow: Flow) -> None:
        self._flow = outbound.open_udp(destination, None, flow)

    def send(self, payload: bytes) -> bool:
        return self._flow.send(payload)

    def close(self) -> None:
        self._flow.close()


class _LaptopFar(asyncio.DatagramProtocol):
    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: object) -> None:
        self._flow.datagram(data)

    def error_received(self, exc: Exception) -> None:
        self._flow.flow_ended(ResetReason.REFUSED, str(exc))

    def send(self, payload: bytes) -> bool:
        if self._transport is None:
            return False
        self._transport.sendto(payload)
        return True

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
