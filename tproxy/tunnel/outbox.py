"""What waits to be sent on a stream, and in which order it leaves.

A batch carries control frames first, then data by turns. Connections with little to say go before those that keep the
stream busy, but only for half of a batch: a request does not wait behind downloads, and no number of requests starves
one. Memory is bounded: a connection is paused at a mark that falls as the whole fills up.
"""

from collections import deque
from collections.abc import Callable

from tproxy.tunnel import wire
from tproxy.tunnel.conn import LOWEST_MARK, Buffer, Conn

QUANTUM = 64 * 1024
"""What one connection may add to a batch before it is another one's turn."""

SMALL = 16 * 1024
"""A connection that had nothing waiting and now has no more than this goes before the busy ones, and sends no more
than this before it counts as one of them."""

HIGH_MARK = 1024 * 1024
"""A connection's sink is paused above this while the outbox is nearly empty …"""
RESUME_MARK = 16 * 1024
"""… above less while it fills up, and resumed here."""
BUDGET = 32 * 1024 * 1024
HARD_LIMIT = 128 * 1024 * 1024
"""Beyond this whoever writes is reset: reached only when sinks ignore `conn_pause`."""
CONN_LIMIT = 4 * 1024 * 1024
CONTROL_LIMIT = 1024 * 1024


class Outbox:
    """The sending half of a stream. `on_output` is called when `take` has something after having had nothing."""

    def __init__(self, clock: Callable[[], float], on_output: Callable[[], None]) -> None:
        self.queued = 0
        """Bytes of all connections that wait."""
        self.on_output = on_output
        self.on_sent_eof: Callable[[Conn], None] = lambda _conn: None
        self.rtt = 0.0
        """What window growth is measured by, in seconds."""
        self._clock = clock
        self._waiting = False
        self._waiting_since = 0.0
        self._control: list[Buffer] = []
        self._control_bytes = 0
        self._pong: int | None = None
        self._owed: list[Conn] = []
        self._fresh: deque[Conn] = deque()
        self._busy: deque[Conn] = deque()

    # Putting in

    def control(self, frame: bytes) -> None:
        """Queue a frame that goes before any data."""
        self._control.append(frame)
        self._control_bytes += len(frame)
        if not self._waiting:
            self._wake()

    @property
    def control_full(self) -> bool:
        """Whether the peer has not taken control frames for so long that no more may be caused."""
        return self._control_bytes > CONTROL_LIMIT

    def pong(self, value: int) -> None:
        """Answer a PING; only the latest one matters."""
        self._pong = value
        if not self._waiting:
            self._wake()

    def owe_credit(self, conn: Conn) -> None:
        """Give the peer what `conn` has spent, with the next batch."""
        conn._credit_due = True
        self._owed.append(conn)
        if not self._waiting:
            self._wake()

    def schedule(self, conn: Conn) -> None:
        """`conn`, which is not scheduled, has something to send and may."""
        conn._scheduled = True
        conn._since = self._clock()
        (self._fresh if conn._queued <= SMALL else self._busy).append(conn)
        if not self._waiting:
            self._wake()

    @property
    def high_mark(self) -> int:
        """What one connection may have queued at present before its sink is paused."""
        return min(HIGH_MARK, max(LOWEST_MARK, (BUDGET - self.queued) // 8))

    def overfull(self, conn: Conn) -> bool:
        """Whether a connection above its mark has to end."""
        return conn._queued > CONN_LIMIT or self.queued > HARD_LIMIT

    def drop(self, conn: Conn) -> None:
        """Forget what `conn` has waiting."""
        self.queued -= conn._queued
        conn._queued = 0
        conn._pieces.clear()
        conn._datagrams.clear()
        conn._datagram_bytes = 0

    def _wake(self) -> None:
        self._waiting = True
        self._waiting_since = self._clock()
        self.on_output()

    # Taking out

    @property
    def waiting(self) -> bool:
        """Whether `take` would return something."""
        return self._waiting

    @property
    def alone(self) -> bool:
        """Whether at most one connection has something to say, and that not much."""
        fresh, busy = self._fresh, self._busy
        if busy or len(self._control) + len(self._owed) + len(fresh) > 1:
            return False
        return not fresh or len(fresh[0]._datagrams) <= 1

    def oldest(self, now: float) -> float:
        """Age in seconds of what has waited longest although it may be sent."""
        if not self._waiting:
            return 0.0
        since = self._waiting_since if self._control or self._owed else now
        for ring in (self._fresh, self._busy):
            if ring:
                since = min(since, ring[0]._since)
        return now - since

    def take(self, limit: int) -> bytes:
        """The next batch; empty if nothing waits. It takes no more data once it is `limit` bytes large."""
        parts, self._control = self._control, []
        size, self._control_bytes = self._control_bytes, 0
        if self._pong is not None:
            parts.append(wire.pong_frame(self._pong))
            self._pong = None
        if self._owed:
            self._pay_credit(parts)
        fresh, busy = self._fresh, self._busy
        half = limit // 2
        while size < limit:
            if fresh and (size < half or not busy):
                size += self._serve(fresh.popleft(), parts, SMALL)
            elif busy:
                conn = busy.popleft()
                size += self._serve(conn, parts, QUANTUM if busy else limit - size)
            else:
                break
        self._waiting = bool(fresh or busy or self._control or self._owed)
        return b"".join(parts)

    def _pay_credit(self, parts: list[Buffer]) -> None:
        owed, self._owed = self._owed, []
        now = self._clock()
        for conn in owed:
            conn._credit_due = False
            if not conn.closed and not conn._eof_received and (credit := conn._window.grant(now, self.rtt)):
                parts.append(wire.credit_frame(conn.id, credit))

    def _serve(self, conn: Conn, parts: list[Buffer], quantum: int) -> int:
        """One turn of `conn`; returns the bytes of data added."""
        conn._scheduled = False
        if conn.closed and not conn._last_words:
            return 0
        queued = conn._queued
        room = min(quantum, conn._credit, queued)
        if room:
            parts.append(wire.data_header(conn._prefix, room))
            pieces = conn._pieces
            if room == queued:
                parts.extend(pieces)
                pieces.clear()
            else:
                _split(pieces, room, parts)
            queued -= room
            conn._queued = queued
            conn._credit -= room
            self.queued -= room
        size = room
        if conn._datagrams:
            size += self._serve_datagrams(conn, parts, quantum - room)
        if (queued and conn._credit) or conn._datagrams:
            conn._scheduled = True
            conn._since = self._clock()
            self._busy.append(conn)
        elif conn._last_words:
            parts.append(conn._last_words)
            conn._last_words = b""
            self.drop(conn)
        elif conn._eof_wanted and not queued and not conn._eof_sent:
            conn._eof_sent = True
            parts.append(wire.fin_frame(conn.id))
            self.on_sent_eof(conn)
        if conn._paused and queued <= RESUME_MARK:
            conn._paused = False
            if not conn.closed:
                conn.sink.conn_resume()
        return size

    def _serve_datagrams(self, conn: Conn, parts: list[Buffer], quantum: int) -> int:
        size = 0
        while conn._datagrams and size < max(quantum, 1):
            payload = conn._datagrams.popleft()
            conn._datagram_bytes -= len(payload)
            size += len(payload)
            parts.append(wire.datagram_frame(conn.id, payload))
        return size


def _split(pieces: deque[Buffer], size: int, parts: list[Buffer]) -> None:
    """Move exactly `size` bytes from the front of `pieces`, which hold more, to `parts`."""
    while size:
        piece = pieces.popleft()
        if len(piece) > size:
            view = memoryview(piece)
            pieces.appendleft(view[size:])
            piece = view[:size]
        parts.append(piece)
        size -= len(piece)
