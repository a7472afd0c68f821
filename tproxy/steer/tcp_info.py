"""What the kernel tells of an established connection (TCP_INFO, FIONREAD)."""

import fcntl
import socket
import struct
import termios
from dataclasses import dataclass
from typing import Protocol

ESTABLISHED = 1
_SIZE = 136  # to bytes_received, which is there since Linux 4.1
# struct tcp_info: when something was last sent and received, in milliseconds before now; bytes received.
_TIMES, _AT_TIMES = struct.Struct("=III"), 44  # sent, an acknowledgement sent, received
_WORD = struct.Struct("=I")
_BYTES, _AT_BYTES = struct.Struct("=Q"), 128
# The round trip in microseconds; all segments sent again; bytes acknowledged and received.
_ROUND_TRIP, _AT_ROUND_TRIP = struct.Struct("=I"), 68
_AGAIN, _AT_AGAIN = struct.Struct("=I"), 100
_BOTH, _AT_BOTH = struct.Struct("=QQ"), 120
# Bytes sent, and of those again; since Linux 4.19.
_SENT, _AT_SENT, _SIZE_WITH_SENT = struct.Struct("=QQ"), 200, 216


class _Asked(Protocol):
    """A socket, the event loop's included."""

    def fileno(self) -> int: ...
    def getsockopt(self, level: int, option: int, size: int) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Carried:
    """What a connection has carried so far, in bytes: what has been sent, each byte once (before Linux 4.19: what its
    peer has acknowledged), and received; the round trip in seconds, segments sent again, whether it is established.
    `unanswered` are the seconds since its peer said what nothing has been sent after; None if it has been answered, or
    has said nothing. Both within one tick of the kernel's clock (1 to 10 ms) count as answered."""

    sent: int
    received: int
    rtt: float
    retransmitted: int
    established: bool
    unanswered: float | None

    @staticmethod
    def ask(sock: _Asked) -> bytes:
        """What the kernel says now, for `parse`: to ask is cheap. Raises OSError."""
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SIZE_WITH_SENT)

    @classmethod
    def parse(cls, data: bytes) -> "Carried":
        """What it said."""
        rtt, again = _ROUND_TRIP.unpack_from(data, _AT_ROUND_TRIP)[0], _AGAIN.unpack_from(data, _AT_AGAIN)[0]
        sent, received = _BOTH.unpack_from(data, _AT_BOTH)
        if len(data) >= _SIZE_WITH_SENT:
            # What is under way when a connection ends is not acknowledged yet, and has been sent all the same.
            all_sent, sent_again = _SENT.unpack_from(data, _AT_SENT)
            sent = all_sent - sent_again
        sent_ago, _, received_ago = _TIMES.unpack_from(data, _AT_TIMES)
        waits = received and (not sent or received_ago < sent_ago)
        return cls(sent, received, rtt / 1e6, again, data[0] == ESTABLISHED, received_ago / 1000 if waits else None)


@dataclass(frozen=True, slots=True)
class TcpInfo:
    """`options` and `scales` are tcpi_options and both window scales, as the kernel has them; times in milliseconds."""

    state: int
    options: int
    scales: int
    sent_ago: int
    received_ago: int
    received: int  # bytes

    @classmethod
    def of(cls, sock: _Asked) -> "TcpInfo":
        """As it is now. Raises OSError."""
        data = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SIZE)
        sent_ago, _, received_ago = _TIMES.unpack_from(data, _AT_TIMES)
        (received,) = _BYTES.unpack_from(data, _AT_BYTES)
        return cls(data[0], data[5], data[6], sent_ago, received_ago, received)

    @property
    def spoke_last(self) -> bool:
        """Whether this end has sent something since the other one did, or the other one never did.

        Within one tick of the kernel's clock (1 to 10 ms) it cannot be told; then it is so.
        """
        return self.received == 0 or self.sent_ago <= self.received_ago


def waiting(sock: _Asked) -> int:
    """Bytes received that nobody has read. Raises OSError."""
    return _WORD.unpack(fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4)))[0]  # type: ignore[no-any-return]
