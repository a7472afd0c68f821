"""One connection inside the tunnel, and who takes what its other end does. Sans-IO, like the multiplexer."""

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from tproxy.model.flow import OpenRequest, ResetReason
from tproxy.tunnel import wire
from tproxy.tunnel.credit import EARLY_CREDIT, Window

if TYPE_CHECKING:
    from tproxy.tunnel.mux import Mux

MAX_DATAGRAM = 65507
"""The largest payload of UDP over IPv4."""
LOWEST_MARK = 32 * 1024
"""A connection with no more than this queued is never paused, however full the outbox is."""
DATAGRAMS_QUEUED = 64
DATAGRAM_BYTES_QUEUED = 256 * 1024


Buffer = bytes | memoryview
"""Bytes that nobody will change."""


class ConnSink(Protocol):
    """Who takes what a connection's other end does. Every method is called from the loop and must not block."""

    def conn_opened(self) -> None:
        """The peer accepted the connection, which was opened here."""

    def conn_data(self, data: Buffer) -> None:
        """The peer sent bytes. Call `Conn.consumed` when they no longer take memory."""

    def conn_eof(self) -> None:
        """The peer sends no more; the other direction stays open."""

    def conn_reset(self, reason: ResetReason, detail: str) -> None:
        """The connection is over: reset by the peer or by a limit, or the tunnel is lost. Drop what is held."""

    def conn_pause(self) -> None:
        """Enough is queued for the peer: stop calling `Conn.write`. May be called from inside `Conn.write`."""

    def conn_resume(self) -> None:
        """Go on writing."""


class _Nobody:
    """The sink of a connection that has none yet."""

    def conn_opened(self) -> None: ...
    def conn_data(self, data: Buffer) -> None: ...
    def conn_eof(self) -> None: ...
    def conn_reset(self, reason: ResetReason, detail: str) -> None: ...
    def conn_pause(self) -> None: ...
    def conn_resume(self) -> None: ...


NOBODY: ConnSink = _Nobody()


class Conn:
    """One connection, as one side of the tunnel holds it. On a connection that is over, methods do nothing.

    Attributes without an underscore are for everyone; those with one belong to `Mux` and `Outbox` as well, which are
    the other parts of the same state machine.
    """

    __slots__ = (
        "_accepted",
        "_credit",
        "_credit_due",
        "_datagram_bytes",
        "_datagrams",
        "_eof_received",
        "_eof_sent",
        "_eof_wanted",
        "_last_words",
        "_mine",
        "_mux",
        "_outbox",
        "_paused",
        "_pieces",
        "_prefix",
        "_queued",
        "_scheduled",
        "_settling",
        "_since",
        "_window",
        "closed",
        "id",
        "on_datagram",
        "request",
        "sink",
    )

    def __init__(self, mux: "Mux", number: int, request: OpenRequest, mine: bool) -> None:
        self.id = number
        self.request = request
        self.sink: ConnSink = NOBODY
        self.on_datagram: Callable[[bytes], None] | None = None
        """Takes datagrams of the peer; without one they are dropped."""
        self.closed = False
        self._mux = mux
        self._outbox = mux.outbox
        self._mine = mine  # opened by this side
        self._accepted = False  # OPENED was sent (peer's) or received (mine)
        self._window = Window(mux.budget, mux.clock())  # what the peer may send
        self._credit = EARLY_CREDIT if mine else 0  # what it is ready to receive
        self._credit_due = False  # listed for a CREDIT frame
        self._prefix = wire.data_prefix(number)
        self._pieces: deque[Buffer] = deque()
        self._queued = 0
        self._datagrams: deque[bytes] = deque()
        self._datagram_bytes = 0
        self._scheduled = False  # waits for its turn in the outbox, since _since
        self._since = 0.0
        self._paused = False
        self._eof_wanted = False
        self._eof_sent = False
        self._eof_received = False
        self._settling = False  # over in order, but the sink still holds bytes
        self._last_words = b""  # RESET, to follow what the peer is still ready to receive

    @property
    def opened(self) -> bool:
        """Whether the side that did not ask for the connection has its far end."""
        return self._accepted

    @property
    def queued(self) -> int:
        """Bytes written that have not left in a batch."""
        return self._queued

    @property
    def given(self) -> int:
        """Bytes that the peer may still send."""
        return self._window.held

    @property
    def credit(self) -> int:
        """Bytes that the peer is ready to receive; what is queued has not been taken off."""
        return self._credit

    def write(self, data: Buffer) -> None:
        """Queue bytes for the peer. When enough is queued the sink is paused; whoever goes on regardless is reset."""
        if self.closed or self._eof_wanted or not data:
            return
        size = len(data)
        self._pieces.append(data)
        self._queued += size
        outbox = self._outbox
        outbox.queued += size
        if self._credit and not self._scheduled:
            outbox.schedule(self)
        if self._queued > LOWEST_MARK:
            self._crowded()

    def _crowded(self) -> None:
        if self._outbox.overfull(self):
            self._outbox.drop(self)
            self._mux.fail(self, ResetReason.LIMIT, "more was written than the tunnel may hold")
        elif not self._paused and self._queued > self._outbox.high_mark:
            self._paused = True
            self.sink.conn_pause()

    def write_eof(self) -> None:
        """Send no more after what is queued; receiving goes on."""
        if self.closed or self._eof_wanted:
            return
        self._eof_wanted = True
        if not self._queued and not self._scheduled:
            self._outbox.schedule(self)

    def write_datagram(self, payload: bytes) -> bool:
        """Queue one datagram of at most `MAX_DATAGRAM` bytes, or drop it as UDP does: false when dropped."""
        size = len(payload)
        if self.closed or size > MAX_DATAGRAM:
            return False
        if len(self._datagrams) >= DATAGRAMS_QUEUED or self._datagram_bytes + size > DATAGRAM_BYTES_QUEUED:
            return False
        self._datagrams.append(payload)
        self._datagram_bytes += size
        if not self._scheduled:
            self._outbox.schedule(self)
        return True

    def reset(self, reason: ResetReason = ResetReason.RESET, detail: str = "") -> None:
        """End the connection; the own sink hears nothing. Queued bytes that the peer is ready for still go first."""
        if not self.closed:
            self._last_words = wire.reset_frame(self.id, reason, detail)
            if not self._scheduled:
                self._outbox.schedule(self)
            self._mux.release(self)

    def accept(self) -> None:
        """Tell the peer that the connection it opened stands."""
        if self.closed or self._mine or self._accepted:
            return
        self._accepted = True
        self._outbox.control(wire.opened_frame(self.id, self._window.widen()))

    def consumed(self, size: int) -> None:
        """`size` bytes which `conn_data` delivered no longer take memory here."""
        window = self._window
        window.spent += size
        if self.closed:
            self._mux.settle(self)
        elif window.spent >= window.due_at and not self._credit_due:
            self._outbox.owe_credit(self)
