"""Many connections over one stream: batches in, batches out, no I/O and no clock of its own.

    peer's batch ──> receive() ──> sink.conn_data / conn_eof / conn_reset / conn_opened …, on_open
    Conn.write / write_eof / reset / accept / consumed ──> queues ──> take() ──> batch for the peer

What breaks the protocol raises `ProtocolError` out of `receive`: the stream has to end then. What only concerns one
connection resets that one. Frames for connections that have ended are ignored: they crossed our RESET or FIN.
"""

from collections import deque
from collections.abc import Callable
from typing import Protocol

from tproxy.model.flow import OpenRequest, ResetReason
from tproxy.rpc.v1 import tunnel_pb2 as pb
from tproxy.tunnel import wire
from tproxy.tunnel.credit import EARLY_CREDIT, Budget, Window

BATCH_BYTES = 512 * 1024
"""A batch is closed once it is this large; it exceeds it by less than one DATA frame and its control frames."""
QUANTUM = 64 * 1024
"""What one connection may put into a batch before it is the next one's turn; also the largest DATA frame."""
MAX_FRAME_DATA = 256 * 1024
MAX_CONNECTIONS = 4096
MAX_CREDIT = 64 * 1024 * 1024
QUEUE_HIGH = 256 * 1024
"""A connection's sink is paused while more than this is queued for the peer …"""
QUEUE_LOW = 64 * 1024
"""… and resumed below this."""
QUEUE_LIMIT = 2 * 1024 * 1024
"""A connection whose sink goes on although paused is reset."""
CONTROL_LIMIT = 2 * 1024 * 1024
MAX_DATAGRAM = 65507
DATAGRAM_QUEUE = 256

PING_SECONDS = 2.0
DEAD_SECONDS = 6.0


class ProtocolError(Exception):
    """The peer broke the protocol: the stream must end. The text carries nothing the peer sent."""


class ConnSink(Protocol):
    """Who takes what a connection's other end does. Called from `receive`, except pause and resume."""

    def conn_opened(self) -> None:
        """The peer accepted a connection that we opened."""

    def conn_data(self, data: bytes) -> None:
        """The peer sent bytes. Call `Conn.consumed` when they no longer take memory."""

    def conn_eof(self) -> None:
        """The peer sends no more; our direction stays open."""

    def conn_reset(self, reason: ResetReason, detail: str) -> None:
        """The connection is over: the peer reset it, or the stream is lost."""

    def conn_pause(self) -> None:
        """Enough is queued: stop calling `Conn.write`."""

    def conn_resume(self) -> None:
        """Go on writing."""


class Conn:
    """One connection, as its side of the tunnel holds it. Methods on a connection that is over do nothing."""

    __slots__ = (
        "_accepted",
        "_credit",
        "_eof_received",
        "_eof_sent",
        "_eof_wanted",
        "_mux",
        "_paused",
        "_prefix",
        "_queue",
        "_queued",
        "_scheduled",
        "_since",
        "_window",
        "closed",
        "id",
        "request",
        "sink",
    )

    def __init__(self, mux: "Mux", number: int, request: OpenRequest, credit: int, accepted: bool) -> None:
        self.id = number
        self.request = request
        self.sink: ConnSink | None = None
        self.closed = False
        self._mux = mux
        self._credit = credit
        self._accepted = accepted  # we opened it, or have answered OPENED
        self._window = Window(mux.budget)
        self._prefix = wire.data_prefix(number)
        self._queue: deque[bytes | memoryview] = deque()
        self._queued = 0
        self._scheduled = False
        self._since = 0.0
        self._paused = False
        self._eof_wanted = False
        self._eof_sent = False
        self._eof_received = False

    @property
    def queued(self) -> int:
        """Bytes written that have not left in a batch yet."""
        return self._queued

    def write(self, data: bytes) -> None:
        """Queue bytes for the peer. Beyond the high mark the sink is paused; ignoring that ends in a reset."""
        if self.closed or self._eof_wanted or not data:
            return
        self._queue.append(data)
        self._queued += len(data)
        if self._credit and not self._scheduled:
            self._mux.schedule(self)
        if self._queued > QUEUE_HIGH:
            if self._queued > QUEUE_LIMIT:
                self._mux.fail(self, ResetReason.LIMIT, "more was written than the tunnel may hold")
            elif not self._paused:
                self._paused = True
                if self.sink is not None:
                    self.sink.conn_pause()

    def write_eof(self) -> None:
        """Send no more after what is queued; receiving goes on."""
        if self.closed or self._eof_wanted:
            return
        self._eof_wanted = True
        if not self._scheduled and not self._queued:
            self._mux.schedule(self)

    def reset(self, reason: ResetReason = ResetReason.RESET, detail: str = "") -> None:
        """End the connection at once; what is queued is dropped. The own sink hears nothing."""
        if not self.closed:
            self._mux.control(wire.reset_frame(self.id, reason, detail))
            self._mux.forget(self)

    def accept(self) -> None:
        """Tell the opener that its connection stands."""
        if self.closed or self._accepted:
            return
        self._accepted = True
        self._mux.control(wire.opened_frame(self.id, self._window.size - EARLY_CREDIT))

    def consumed(self, size: int) -> None:
        """`size` bytes that `conn_data` delivered no longer take memory here."""
        if self._window.consumed(size) and not self.closed and self._accepted:
            self._mux.grant(self)


class Mux:
    """One side of a stream."""

    def __init__(
        self,
        laptop: bool,
        clock: Callable[[], float],
        on_output: Callable[[], None] = lambda: None,
        on_open: Callable[[Conn], None] | None = None,
    ) -> None:
        """`on_output` is called when `take` has something after having had nothing."""
        self.on_open = on_open
        self.budget = Budget()
        self.conns: dict[int, Conn] = {}
        self.rtt = 0.0
        self.bytes_in = 0
        self.bytes_out = 0
        self._clock = clock
        self._on_output = on_output
        self._next_id = 1 if laptop else 2
        self._peer_parity = 0 if laptop else 1
        self._last_peer_id = 0
        self._control: list[bytes] = []
        self._control_size = 0
        self._ready: deque[Conn] = deque()
        now = clock()
        self._last_frame = now
        self._last_tick = now
        self._ping_due = now
        self._ping_sent: float | None = None

    # What this side does

    def open(self, request: OpenRequest, sink: ConnSink) -> Conn:
        """Open a connection towards the peer."""
        conn = Conn(self, self._next_id, request, EARLY_CREDIT, accepted=True)
        conn.sink = sink
        self._next_id += 2
        self.conns[conn.id] = conn
        self.control(wire.open_frame(conn.id, request, conn._window.size))
        return conn

    def schedule(self, conn: Conn) -> None:
        """`conn` has something to send and may."""
        conn._scheduled = True
        conn._since = self._clock()
        self._ready.append(conn)
        self._on_output()

    def control(self, frame: bytes) -> None:
        """Queue a frame that goes before any data."""
        self._control.append(frame)
        self._control_size += len(frame)
        self._on_output()

    def grant(self, conn: Conn) -> None:
        """Give the peer the credit that `conn` has to give."""
        self.control(wire.credit_frame(conn.id, conn._window.grant(self._clock(), self.rtt)))

    def fail(self, conn: Conn, reason: ResetReason, detail: str) -> None:
        """Reset `conn` towards both sides."""
        if not conn.closed:
            conn.reset(reason, detail)
            if conn.sink is not None:
                conn.sink.conn_reset(reason, detail)

    def forget(self, conn: Conn) -> None:
        """`conn` is over."""
        conn.closed = True
        conn._queue.clear()
        conn._queued = 0
        conn._window.close()
        self.conns.pop(conn.id, None)

    def lost(self, detail: str) -> None:
        """The stream is gone: every connection hears TUNNEL_LOST."""
        for conn in list(self.conns.values()):
            self.forget(conn)
            if conn.sink is not None:
                conn.sink.conn_reset(ResetReason.TUNNEL_LOST, detail)

    # Towards the peer

    @property
    def pending(self) -> bool:
        """Whether `take` would return something."""
        return bool(self._control or self._ready)

    @property
    def oldest(self) -> float:
        """Age in seconds of the oldest byte that may be sent and has not been taken."""
        return self._clock() - self._ready[0]._since if self._ready else 0.0

    def take(self, limit: int = BATCH_BYTES) -> bytes:
        """The next batch, empty if there is nothing to say: control frames first, then data by turns."""
        parts = self._control
        size = self._control_size
        self._control = []
        self._control_size = 0
        ready = self._ready
        while ready and size < limit:
            conn = ready.popleft()
            conn._scheduled = False
            if conn.closed:
                continue
            size += self._take_data(conn, parts)
        batch = b"".join(parts)
        self.bytes_out += len(batch)
        return batch

    def _take_data(self, conn: Conn, parts: list[bytes]) -> int:
        room = min(QUANTUM, conn._credit, conn._queued)
        taken: list[bytes | memoryview] = []
        left = room
        queue = conn._queue
        while left:
            piece = queue.popleft()
            if len(piece) > left:
                view = memoryview(piece)
                queue.appendleft(view[left:])
                piece = view[:left]
            taken.append(piece)
            left -= len(piece)
        if room:
            parts.append(wire.data_header(conn._prefix, room))
            parts.extend(taken)  # type: ignore[arg-type]
            conn._credit -= room
            conn._queued -= room
        if conn._queued:
            if conn._credit:
                conn._scheduled = True
                conn._since = self._clock()
                self._ready.append(conn)
        elif conn._eof_wanted and not conn._eof_sent:
            conn._eof_sent = True
            parts.append(wire.fin_frame(conn.id))
            if conn._eof_received:
                self.forget(conn)
        if conn._paused and conn._queued <= QUEUE_LOW:
            conn._paused = False
            if conn.sink is not None and not conn.closed:
                conn.sink.conn_resume()
        return room

    # From the peer

    def receive(self, batch: bytes) -> None:
        """Act on one batch of the peer. Raises `ProtocolError`."""
        self._last_frame = self._clock()
        self.bytes_in += len(batch)
        conns = self.conns
        try:
            for number, frame in wire.frames(batch):
                if type(frame) is bytes:
                    conn = conns.get(number)
                    if conn is None:
                        self._ended(number)
                        continue
                    if conn._eof_received:
                        raise ProtocolError("data after FIN")
                    if not conn._window.received(len(frame)):
                        raise ProtocolError("data beyond credit")
                    if conn.sink is not None:
                        conn.sink.conn_data(frame)
                else:
                    self._act(number, frame)  # type: ignore[arg-type]
        except wire.WireError as error:
            raise ProtocolError(str(error)) from error

    def _act(self, number: int, frame: pb.Frame) -> None:
        body = frame.WhichOneof("body")
        if body == "ping":
            self.control(wire.pong_frame(frame.ping))
            return
        if body == "pong":
            if self._ping_sent is not None:
                self.rtt = self._clock() - self._ping_sent
                self._ping_sent = None
            return
        if body == "open":
            self._opened_by_peer(number, frame.open)
            return
        conn = self.conns.get(number)
        if conn is None:
            self._ended(number)
        elif body == "credit":
            self._credit(conn, frame.credit)
        elif body == "opened":
            self._credit(conn, frame.opened.credit)
            if conn.sink is not None:
                conn.sink.conn_opened()
        elif body == "fin":
            self._fin(conn)
        elif body == "reset":
            self.forget(conn)
            if conn.sink is not None:
                conn.sink.conn_reset(*wire.reset_reason(frame.reset))
        else:
            raise ProtocolError("unexpected frame")

    def _ended(self, number: int) -> None:
        """A frame for a connection that does not exist: fine if it once did."""
        mine = number % 2 != self._peer_parity
        if not number or number >= (self._next_id if mine else self._last_peer_id + 1):
            raise ProtocolError("frame for a connection that was never opened")

    def _opened_by_peer(self, number: int, body: pb.Open) -> None:
        if number % 2 != self._peer_parity or number <= self._last_peer_id:
            raise ProtocolError("OPEN with a number that is not the peer's next")
        self._last_peer_id = number
        if len(self.conns) >= MAX_CONNECTIONS:
            self.control(wire.reset_frame(number, ResetReason.LIMIT, "too many connections"))
            return
        conn = Conn(self, number, wire.open_request(body), 0, accepted=False)
        self.conns[number] = conn
        self._credit(conn, body.credit)
        if self.on_open is not None:
            self.on_open(conn)
        if conn.sink is None and not conn.closed:
            conn.reset(ResetReason.INTERNAL, "nobody serves connections")

    def _credit(self, conn: Conn, size: int) -> None:
        conn._credit += size
        if conn._credit > MAX_CREDIT:
            raise ProtocolError("credit overflow")
        if conn._queued and conn._credit and not conn._scheduled:
            self.schedule(conn)

    def _fin(self, conn: Conn) -> None:
        if conn._eof_received:
            raise ProtocolError("FIN after FIN")
        conn._eof_received = True
        if conn.sink is not None:
            conn.sink.conn_eof()
        if conn._eof_sent and not conn.closed:
            self.forget(conn)

    # Time

    def tick(self) -> str:
        """Call about once a second. Returns why the stream is dead, or nothing."""
        now = self._clock()
        if now - self._last_tick > PING_SECONDS:
            self._last_frame = max(self._last_frame, now - DEAD_SECONDS + PING_SECONDS)
        self._last_tick = now
        if now - self._last_frame > DEAD_SECONDS:
            return f"nothing heard for {DEAD_SECONDS:.0f} s"
        if now >= self._ping_due and self._ping_sent is None:
            self._ping_sent = now
            self._ping_due = now + PING_SECONDS
            self.control(wire.ping_frame(0))
        return ""
