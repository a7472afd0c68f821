"""A run's TCP connections: asked about, dialled, and then let through, so that refused is refused.

    SYN ──▶ queue ──▶ dial ──┬─ accepted ──▶ verdict OPEN ──▶ our listener accepts ──▶ the two sides are joined
                             ├─ refused, unreachable, denied ──▶ that verdict: the program sees just that
                             └─ timed out ──▶ dropped, and so is each repetition: the program times out by itself

Where the kernel cannot ask, connections are accepted first and reset when the far end cannot be had.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from tproxy.capture import queue
from tproxy.capture.layout import Mark
from tproxy.capture.queue import Asked
from tproxy.model.flow import Address, ResetReason
from tproxy.tasks import Tasks
from tproxy_cli.daemon.runs.places import Places
from tproxy_cli.daemon.runs.upstream import ClusterUpstream, LaptopUpstream, Upstream

log = logging.getLogger(__name__)

MOST_CONNECTIONS = 16384
MOST_WAITING = 4096
ACCEPT_SECONDS = 30.0
"""How long after the verdict the program's side may take to stand, which takes microseconds."""

SILENCE_SECONDS = 180.0
"""How long a SYN may be repeated that is not answered: Linux takes two minutes."""

_BURST = 64
_MARKS = {
    ResetReason.RESET: Mark.REFUSED,
    ResetReason.REFUSED: Mark.REFUSED,
    ResetReason.DENIED: Mark.FORBIDDEN,
    ResetReason.TIMED_OUT: None,
}
"""Verdicts by the reason; all others mean that the destination cannot be reached."""

Flow = tuple[Address, Address]
"""Source and destination."""

OnFailure = Callable[[Address, ResetReason, str], None]


@dataclass(slots=True)
class _Waiting:
    """A connection from its first SYN until the program's side stands. `packets` wait for the verdict."""

    packets: list[int] = field(default_factory=list)
    upstream: Upstream | None = None
    silent: bool = False
    timer: asyncio.TimerHandle | None = None


class Connections:
    """Serves listeners and the queue until `close`; takes them over."""

    def __init__(self, places: Places, on_failure: OnFailure = lambda *_: None) -> None:
        self._places = places
        self._on_failure = on_failure
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[Flow, _Waiting] = {}
        self._joined: set[Upstream] = set()
        self._tasks = Tasks("connections")
        self._sockets: list[socket.socket] = []
        self._queue: socket.socket | None = None

    @property
    def count(self) -> int:
        """Connections that are open, or about to be."""
        return len(self._joined) + len(self._waiting)

    def serve(self, listeners: list[socket.socket], asking: socket.socket | None) -> None:
        """Begin."""
        for listener in listeners:
            listener.setblocking(False)
            self._loop.add_reader(listener, self._accept, listener)
        self._sockets = listeners
        self._queue = asking
        if asking is not None:
            asking.setblocking(False)
            self._loop.add_reader(asking, self._asked, asking)
            self._sockets = [*listeners, asking]

    async def close(self) -> None:
        """Close the sockets and reset what is open."""
        for sock in self._sockets:
            self._loop.remove_reader(sock)
            sock.close()
        self._queue = None
        for flow in list(self._waiting):
            self._forget(flow)
        for upstream in list(self._joined):
            upstream.abort()
        await self._tasks.close()

    # Asking

    def _asked(self, sock: socket.socket) -> None:
        for _ in range(_BURST):
            try:
                data = sock.recv(queue.LONGEST_MESSAGE)
            except BlockingIOError:
                return
            except OSError as error:  # ENOBUFS: what was dropped comes again
                log.warning("packet queue: %s", error)
                return
            for one in queue.asked(data):
                self.consider(one)

    def consider(self, asked: Asked) -> None:
        """Somebody asks: dial, unless that is under way."""
        flow = (asked.source, asked.destination)
        waiting = self._waiting.get(flow)
        if waiting is None:
            if len(self._waiting) >= MOST_WAITING or self.count >= MOST_CONNECTIONS:
                self.answer(asked.number, None)
                return
            waiting = self._waiting[flow] = _Waiting([asked.number])
            waiting.upstream = self._dial(asked.destination, lambda *result: self._dialled(flow, *result))
        elif waiting.silent:
            self.answer(asked.number, None)
        elif len(waiting.packets) < 8:
            waiting.packets.append(asked.number)  # the program's kernel repeats itself

    def _dialled(self, flow: Flow, reason: ResetReason | None, detail: str) -> None:
        waiting = self._waiting.get(flow)
        if waiting is None:
            return
        mark = Mark.OPEN if reason is None else _MARKS.get(reason, Mark.UNREACHABLE)
        packets, waiting.packets = waiting.packets, []
        # One is enough to get through; its repetitions would be connections of their own.
        for number in packets[1:]:
            self.answer(number, None)
        for number in packets[:1]:
            self.answer(number, mark)
        if reason is not None:
            self._on_failure(flow[1], reason, detail)
            waiting.upstream = None
            waiting.silent = mark is None
        if waiting.silent or reason is None:
            seconds = SILENCE_SECONDS if waiting.silent else ACCEPT_SECONDS
            waiting.timer = self._loop.call_later(seconds, self._forget, flow)
        else:
            del self._waiting[flow]

    def answer(self, number: int, mark: Mark | None) -> None:
        """Give the verdict on a packet; without a mark it is dropped."""
        if self._queue is not None:
            with contextlib.suppress(OSError):  # a full buffer: as if the packet had been lost on the way
                self._queue.send(queue.verdict(number, mark))

    def _forget(self, flow: Flow) -> None:
        waiting = self._waiting.pop(flow)
        if waiting.timer is not None:
            waiting.timer.cancel()
        if waiting.upstream is not None:
            waiting.upstream.abort()

    # Joining

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_BURST):
            try:
                sock, peer = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                log.warning("accept: %s", error)
                return
            sock.setblocking(False)
            own = sock.getsockname()
            self.accepted(sock, (Address(peer[0], peer[1]), Address(own[0], own[1])))

    def accepted(self, sock: socket.socket, flow: Flow) -> None:
        """The program's side stands. Takes `sock` over."""
        waiting = self._waiting.pop(flow, None)
        if waiting is not None and waiting.timer is not None:
            waiting.timer.cancel()
        upstream = waiting.upstream if waiting is not None else None
        if upstream is None:
            # Nobody has asked: the kernel cannot, or another daemon did.
            if self.count >= MOST_CONNECTIONS:
                sock.close()
                return
            upstream = self._dial(flow[1], lambda *result: self._late(flow[1], *result))
        self._joined.add(upstream)
        self._tasks.start(self._join(upstream, sock), "join")

    def _late(self, destination: Address, reason: ResetReason | None, detail: str) -> None:
        if reason is not None:
            self._on_failure(destination, reason, detail)

    async def _join(self, upstream: Upstream, sock: socket.socket) -> None:
        try:
            try:
                await self._loop.connect_accepted_socket(lambda: upstream.near, sock)
            except OSError:
                upstream.abort()
                sock.close()
                return
            await asyncio.shield(upstream.over)
        finally:
            self._joined.discard(upstream)

    def _dial(self, destination: Address, on_result: Callable[[ResetReason | None, str], None]) -> Upstream:
        if self._places.in_cluster(destination.host):
            return ClusterUpstream(self._places.outbound, destination, on_result)
        return LaptopUpstream(destination, self._tasks, on_result)
