"""Packets of several interfaces in the order of time. Pure.

The kernel hands over an interface's packets in blocks, each when full or after a while: until then an
older packet may still come.
"""

import heapq
from collections.abc import Iterator
from typing import NamedTuple

from tproxy.trace.packets import RETIRE_MILLISECONDS, Packet

WAIT_NANOSECONDS = 2 * RETIRE_MILLISECONDS * 1_000_000
MAX_BYTES = 16 * 1024 * 1024
"""Of packets that wait; beyond that, order is what gives way."""


class _Waiting(NamedTuple):
    time: int
    arrival: int  # decides between packets of one moment
    interface: int
    packet: Packet


class Ordered:
    """Keeps packets until no older one can come."""

    def __init__(self) -> None:
        self._waiting: list[_Waiting] = []
        self._arrivals = 0
        self._bytes = 0

    def add(self, interface: int, packet: Packet) -> None:
        """A packet of an interface, by its number."""
        self._arrivals += 1
        self._bytes += len(packet.data)
        heapq.heappush(self._waiting, _Waiting(packet.time, self._arrivals, interface, packet))

    def due(self, now: int) -> Iterator[tuple[int, Packet]]:
        """Those whose turn it is at `now`, in nanoseconds since 1970, each with its interface."""
        while self._waiting and (self._waiting[0].time <= now - WAIT_NANOSECONDS or self._bytes > MAX_BYTES):
            yield self._next()

    def rest(self) -> Iterator[tuple[int, Packet]]:
        """All of them: no more will come."""
        while self._waiting:
            yield self._next()

    def _next(self) -> tuple[int, Packet]:
        first = heapq.heappop(self._waiting)
        self._bytes -= len(first.packet.data)
        return first.interface, first.packet
