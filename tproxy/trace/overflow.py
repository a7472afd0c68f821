"""Accept queues that overflow: connections that a listener has no room for, because its app does not accept them.

No tracepoint tells of all of them (a SYN that is turned away leaves no trace), but the kernel counts them for each
network namespace, and socket diagnosis says how full each listener is.
"""

import os
import socket
import struct
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tproxy.netns.handle import Netns
from tproxy.netns.netlink import Netlink

_LIMIT = 64 * 1024  # bytes of /proc/net/netstat, ten times what it has
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_LISTEN = 10
_REQUEST = struct.Struct("=BBBBI48x")  # struct inet_diag_req_v2, of any socket
# struct inet_diag_msg: ports and addresses, then how many wait in the accept queue and how many may.
_PORT, _ADDRESS, _WAITING, _ROOM = slice(4, 6), slice(8, 24), slice(56, 60), slice(60, 64)


@dataclass(frozen=True, slots=True)
class Queue:
    """A listener: its address, how many connections wait to be accepted, and how many may."""

    address: str
    port: int
    waiting: int
    room: int

    @property
    def full(self) -> bool:
        """Whether the kernel turns the next connection away: it does so beyond the limit."""
        return self.waiting > self.room


@dataclass(frozen=True, slots=True)
class Overflow:
    """Connections that a namespace had no room for since the last look, and the listeners that are full now."""

    refused: int
    queues: tuple[Queue, ...]


def counters(netstat: str) -> Mapping[str, int]:
    """`TcpExt` of /proc/net/netstat: a line of names, then a line of values."""
    lines = [line.split() for line in netstat.splitlines() if line.startswith("TcpExt:")]
    if len(lines) < 2:
        return {}
    return {name: int(value) for name, value in zip(lines[0][1:], lines[1][1:], strict=False)}


class Overflows:
    """Of one namespace, which stays the caller's; raises OSError."""

    def __init__(self, netns: Netns) -> None:
        with netns.entered():
            self._netstat = os.open("/proc/thread-self/net/netstat", os.O_RDONLY | os.O_CLOEXEC)
            self._netlink = Netlink(_NETLINK_SOCK_DIAG)
        self._seen = self._count()

    def look(self, port: int = 0) -> Overflow | None:
        """What has overflowed since the last look; with `port` only if its listener is among those that are full."""
        before, self._seen = self._seen, self._count()
        refused = self._seen - before
        if refused <= 0:
            return None
        full = tuple(queue for queue in self.queues() if queue.full)
        if port and not any(queue.port == port for queue in full):
            return None
        return Overflow(refused, full)

    def queues(self) -> Iterator[Queue]:
        """Of all listeners."""
        for family in (socket.AF_INET, socket.AF_INET6):
            request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, 1 << _LISTEN)
            for answer in self._netlink.dump(_SOCK_DIAG_BY_FAMILY, request):
                address = answer[_ADDRESS][: 4 if family == socket.AF_INET else 16]
                yield Queue(
                    socket.inet_ntop(family, address),
                    int.from_bytes(answer[_PORT], "big"),
                    int.from_bytes(answer[_WAITING], sys.byteorder),
                    int.from_bytes(answer[_ROOM], sys.byteorder),
                )

    def close(self) -> None:
        """Release what it reads. Idempotent."""
        if self._netstat >= 0:
            os.close(self._netstat)
            self._netstat = -1
            self._netlink.close()

    def _count(self) -> int:
        return counters(os.pread(self._netstat, _LIMIT, 0).decode("ascii")).get("ListenOverflows", 0)
