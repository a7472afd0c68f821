"""Many connections over one stream: batches in, batches out, no I/O and no clock of its own.

    peer's batch ──> receive() ──> on_open, sink.conn_data / conn_eof / conn_reset / conn_opened
    Conn.write / write_eof / reset / accept / consumed ──> outbox.take() ──> batch for the peer

What breaks the protocol raises `ProtocolError` out of `receive`, and the stream has to end. What concerns only one
connection resets that one. Frames for a connection that has ended are ignored: they crossed our RESET or FIN.

    state of a connection   it ends when
    opened                  RESET either way, or FIN sent and received; numbers only rise, so none is used twice
"""

from collections import deque
from collections.abc import Callable

from tproxy.model.flow import OpenRequest, ResetReason
from tproxy.rpc.v1 import tunnel_pb2 as pb
from tproxy.tunnel import wire
from tproxy.tunnel.conn import MAX_DATAGRAM, NOBODY, Conn, ConnSink
from tproxy.tunnel.credit import EARLY_CREDIT, Budget
from tproxy.tunnel.outbox import Outbox

MAX_CONNECTIONS = 4096
MAX_CREDIT = 256 * 1024 * 1024
"""More credit than this for one connection is a mistake or an attack."""
MAX_NUMBER = 2**32 - 1

PING_SECONDS = 2.0
DEAD_SECONDS = 6.0
_SUSPENDED_SECONDS = 2.0
"""A clock that jumps further than this between two ticks means that this side stood still, not the peer."""


class ProtocolError(Exception):
    """The peer broke the protocol: the stream must end. The text carries nothing that the peer sent."""


class Mux:
    """One side of a stream, after the handshake."""

    def __init__(
        self,
        laptop: bool,
        clock: Callable[[], float],
        on_output: Callable[[], None] = lambda: None,
        on_open: Callable[[Conn], None] | None = None,
    ) -> None:
        """`clock` counts seconds and never goes back. `on_output` is called when `outbox.take` has something again.
        `on_open` gets each connection of the peer; it sets `conn.sink` or resets it, and accepts it then or later."""
        self.on_open = on_open
        self.clock = clock
        self.budget = Budget()
        self.outbox = Outbox(clock, on_output)
        self.outbox.on_sent_eof = self._eof_sent
        self.conns: dict[int, Conn] = {}
        self.rtt = 0.0
        self.bytes_in = 0
        self._peer = "node" if laptop else "laptop"
        self._settling = 0  # connections that are over but whose sinks still hold bytes
        self._next_number = 1 if laptop else 2
        self._peer_parity = 0 if laptop else 1
        self._last_peer_number = 0
        self._rtts: deque[float] = deque(maxlen=8)
        now = clock()
        self._heard = now
        self._ticked = now
        self._ping_due = now
        self._ping_sent: float | None = None
        self._ping_value = 0

    # What this side does

    def open(self, request: OpenRequest, sink: ConnSink) -> Conn:
        """Open a connection towards the peer. When there are too many, or the peer takes none, it is `closed`."""
        conn = Conn(self, self._next_number, request, mine=True)
        conn.sink = sink
        if self._full or self.outbox.control_full or self._next_number > MAX_NUMBER:
            conn.closed = True
            conn._window.close()
            return conn
        self._next_number += 2
        self.conns[conn.id] = conn
        self.outbox.control(wire.open_frame(conn.id, request, EARLY_CREDIT + conn._window.widen()))
        return conn

    def fail(self, conn: Conn, reason: ResetReason, detail: str) -> None:
        """Reset `conn` towards both sides."""
        if not conn.closed:
            conn.reset(reason, detail)
            conn.sink.conn_reset(reason, detail)

    def abandon(self, conn: Conn) -> None:
        """`conn` has nobody to go to: it ends without a word."""
        if not conn.closed:
            self._over(conn)

    def lost(self, detail: str) -> None:
        """The stream is gone: every connection hears TUNNEL_LOST."""
        for conn in list(self.conns.values()):
            if not conn.closed:  # one sink may have ended another connection
                self._over(conn)
                conn.sink.conn_reset(ResetReason.TUNNEL_LOST, detail)

    def release(self, conn: Conn) -> None:
        """`conn` was reset by this side; it may still have last words in the outbox."""
        conn.closed = True
        del self.conns[conn.id]
        conn._window.close()

    def settle(self, conn: Conn) -> None:
        """The sink of a connection that has ended in order has consumed more of what it held."""
        if conn._settling and not conn._window.with_sink:
            conn._settling = False
            self._settling -= 1
            conn._window.close()

    @property
    def _full(self) -> bool:
        return len(self.conns) + self._settling >= MAX_CONNECTIONS

    def _over(self, conn: Conn) -> None:
        """`conn` ends at once, without a word to the peer."""
        self.release(conn)
        self.outbox.drop(conn)

    def _finished(self, conn: Conn) -> None:
        """FIN went both ways. What the sink still holds goes on counting until it is consumed."""
        conn.closed = True
        del self.conns[conn.id]
        self.outbox.drop(conn)  # datagrams
        conn._settling = True
        self._settling += 1
        self.settle(conn)

    def _eof_sent(self, conn: Conn) -> None:
        if conn._eof_received and not conn.closed:
            self._finished(conn)

    # What the peer does

    def receive(self, batch: bytes) -> None:
        """Act on one batch of the peer. Raises `ProtocolError`."""
        self._heard = self.clock()
        self.bytes_in += len(batch)
        conns = self.conns
        try:
            for number, frame in wire.frames(batch):
                if not isinstance(frame, pb.Frame):
                    conn = conns.get(number)
                    if conn is None:
                        self._ended(number)
                        continue
                    window = conn._window
                    window.held -= len(frame)
                    if window.held < 0:
                        raise ProtocolError("DATA beyond credit")
                    if conn._eof_received:
                        raise ProtocolError("DATA after FIN")
                    conn.sink.conn_data(frame)
                else:
                    self._act(number, frame)
        except wire.WireError as error:
            raise ProtocolError(str(error)) from error

    def _act(self, number: int, frame: pb.Frame) -> None:
        body = frame.WhichOneof("body")
        if body in ("ping", "pong"):
            if number:
                raise ProtocolError("PING of a connection")
            self._ponged(frame.pong) if body == "pong" else self.outbox.pong(frame.ping)
            return
        if body == "open":
            self._opened_by_peer(number, frame.open)
            return
        conn = self.conns.get(number)
        if conn is None:
            self._ended(number)
        elif body == "credit":
            self._credited(conn, frame.credit)
        elif body == "opened":
            if not conn._mine or conn._accepted:
                raise ProtocolError("OPENED for a connection that waits for none")
            conn._accepted = True
            self._credited(conn, frame.opened.credit)
            conn.sink.conn_opened()
        elif body == "fin":
            self._fin(conn)
        elif body == "reset":
            reason, detail = wire.reset_reason(frame.reset)
            self._over(conn)
            conn.sink.conn_reset(reason, detail)
        elif body == "datagram":
            if len(frame.datagram) > MAX_DATAGRAM:
                raise ProtocolError("DATAGRAM too long")
            if conn.on_datagram is not None:
                conn.on_datagram(frame.datagram)
        elif body == "data":  # not as `wire` writes it: a field too many, or out of order
            raise ProtocolError("DATA in an unknown form")
        else:
            raise ProtocolError("a frame that does not belong here")

    def _ended(self, number: int) -> None:
        """A frame for a connection that does not exist: fine if it once did."""
        limit = self._last_peer_number if number % 2 == self._peer_parity else self._next_number - 1
        if not 0 < number <= limit:
            raise ProtocolError("a frame for a connection that was never opened")

    def _opened_by_peer(self, number: int, body: pb.Open) -> None:
        if number % 2 != self._peer_parity or number <= self._last_peer_number:
            raise ProtocolError("OPEN with a number that is not the next")
        self._last_peer_number = number
        request = wire.open_request(body)
        if self.outbox.control_full:
            raise ProtocolError("connections are opened, but no answers are read")
        if self._full:
            self.outbox.control(wire.reset_frame(number, ResetReason.LIMIT, "too many connections"))
            return
        conn = Conn(self, number, request, mine=False)
        self.conns[number] = conn
        self._credited(conn, body.credit)
        if self.on_open is not None:
            self.on_open(conn)
        if conn.sink is NOBODY and not conn.closed:
            conn.reset(ResetReason.INTERNAL, "nobody serves connections here")

    def _credited(self, conn: Conn, size: int) -> None:
        conn._credit += size
        if conn._credit > MAX_CREDIT:
            raise ProtocolError("too much credit")
        if conn._queued and conn._credit and not conn._scheduled:
            self.outbox.schedule(conn)

    def _fin(self, conn: Conn) -> None:
        if conn._eof_received:
            raise ProtocolError("FIN after FIN")
        conn._eof_received = True
        conn.sink.conn_eof()
        if conn._eof_sent and not conn.closed:
            self._finished(conn)

    def _ponged(self, value: int) -> None:
        if self._ping_sent is None or value != self._ping_value:
            return  # an answer to a question that was never put, or was given up
        self.rtt = self.clock() - self._ping_sent
        self._ping_sent = None
        self._rtts.append(self.rtt)
        self.outbox.rtt = min(self._rtts)

    # Time

    @property
    def quiet(self) -> float:
        """Seconds since the peer was last heard; a live one is heard every `PING_SECONDS`."""
        return self.clock() - self._heard

    def tick(self) -> str:
        """Look at the clock, several times per second. Returns why the peer is dead, or an empty string."""
        now = self.clock()
        if now - self._ticked > _SUSPENDED_SECONDS:
            # What the peer said meanwhile has not been read yet, and our PINGs have not been answered.
            self._heard = max(self._heard, now - DEAD_SECONDS + _SUSPENDED_SECONDS)
        self._ticked = now
        if now - self._heard > DEAD_SECONDS:
            return f"the {self._peer} was silent for {DEAD_SECONDS:.0f} s"
        if now >= self._ping_due:
            self._ping_due = now + PING_SECONDS
            if self._ping_sent is None:
                self._ping_value += 1
                self._ping_sent = now
                self.outbox.control(wire.ping_frame(self._ping_value))
        return ""
