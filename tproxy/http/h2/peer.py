"""One end of ours of an HTTP/2 connection: what belongs to the connection as a whole, and ends here.

SETTINGS, PING, the connection's windows and header compression are between us and each peer. What is about streams
comes out of `read` as events.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tproxy.http.h2 import frames as f
from tproxy.http.h2.blocks import NO_TABLE, BlockReader, check_size
from tproxy.http.port import End

if TYPE_CHECKING:
    from tproxy.http.h2.stream import Half

WINDOW = 1024 * 1024
"""Bytes of DATA that a peer may have on their way to us, of all streams together."""

REPAY = WINDOW // 4
"""What a peer is owed of that before it is told."""

QUANTUM = f.MAX_FRAME
"""Bytes that a stream may send before it is another's turn."""

MAX_CONTINUATIONS = 64
MAX_UNREAD = 256 * 1024
"""Bytes of answers to frames of the connection, on top of what the peer has not read yet."""

HEADERS, DATA, RESET, WINDOW_MORE, GOAWAY, SETTINGS, PONG, PROMISE = range(8)

Event = tuple[int, int, bytes, int, bool]
"""Kind, stream, bytes, number, flag.

    HEADERS       block, 0, whether the stream ends
    DATA          payload, bytes that count for the windows, whether the stream ends
    RESET         b"", code
    WINDOW_MORE   b"", increment; stream 0: the connection's has grown
    GOAWAY        debug data, code; the stream is the last one
    SETTINGS      b"", change of the initial window
    PONG          payload
    PROMISE       b"", promised stream
"""


class Peer:
    """`window`: what we may send; `initial`: the same for a new stream; `streams`: how many it takes at a time.

    Everything written waits in `out` until `flush`.
    """

    def __init__(self, end: End, table: int = 4096) -> None:
        self.end = end
        self.out: list[bytes] = []
        self.window = f.DEFAULT_WINDOW
        self.initial = f.DEFAULT_WINDOW
        self.max_streams = f.MAX_STREAM
        self.connect_protocol = False
        self.alive = False
        """Has spoken HTTP/2."""
        self.paused = False
        self.announced = f.DEFAULT_WINDOW
        """What we have said that a new stream may send to us."""
        self.settings_open = 0
        """SETTINGS of ours that have not been acknowledged."""
        self.blocked: dict[Half, None] = {}
        """What waits for `window`, or for the peer to read, in turn."""
        self._frames = f.FrameReader()
        self._blocks = BlockReader(table)
        self._first_block = True
        self._owed = 0
        self._allowed = WINDOW
        self._unread = 0
        self._open: tuple[int, int, bool, list[bytes], int] | None = None  # a header block that is not complete

    # What is sent

    def begin(self, preface: bytes, values: dict[int, int]) -> None:
        """Say what a connection begins with, before anything else that waits to be written."""
        first = preface + f.settings({f.HEADER_TABLE_SIZE: 0, **values})
        self.out.insert(0, first + f.window_update(0, WINDOW - f.DEFAULT_WINDOW))
        self.announced = values.get(f.INITIAL_WINDOW_SIZE, self.announced)
        self.settings_open += 1

    def tell(self, values: dict[int, int]) -> None:
        """Change settings of ours."""
        self.out.append(f.settings(values))
        self.announced = values.get(f.INITIAL_WINDOW_SIZE, self.announced)
        self.settings_open += 1

    def headers(self, stream: int, block: bytes, end: bool) -> None:
        """Send a header block."""
        if self._first_block:
            self._first_block = False
            block = NO_TABLE + block
        self.out.append(f.headers(stream, block, end))

    def data(self, stream: int, payload: bytes, end: bool) -> None:
        """Send DATA that the windows have room for."""
        self.window -= len(payload)
        self.out.append(f.head(f.DATA, f.END_STREAM if end else 0, stream, len(payload)))
        self.out.append(payload)

    def owe(self, size: int) -> None:
        """So many bytes of DATA have left our memory again."""
        self._owed += size
        if self._owed >= REPAY:
            self.out.append(f.window_update(0, self._owed))
            self._allowed += self._owed
            self._owed = 0

    def flush(self) -> None:
        """Write what waits. Raises `FaultError` if the peer reads nothing but makes us write."""
        out = self.out
        if not out:
            return
        data = b"".join(out) if len(out) > 1 else out[0]
        out.clear()
        if self.paused:
            self._unread += len(data)
            if self._unread > MAX_UNREAD:
                raise f.FaultError(f.ENHANCE_YOUR_CALM, "too many answers that nobody reads")
        self.end.write(data)

    def resume(self) -> None:
        """The peer reads again."""
        self.paused = False
        self._unread = 0

    def unblock(self) -> "list[Half]":
        """Send what there is room for now, some of each stream in turn; which of them have sent everything."""
        blocked = self.blocked
        finished = []
        while blocked and self.window > 0 and not self.paused:
            for half in list(blocked):
                del blocked[half]
                if half.pump(QUANTUM):
                    blocked[half] = None
                elif half.done:
                    finished.append(half)
                if self.window <= 0 or self.paused:
                    break
        return finished

    @property
    def crowded(self) -> bool:
        """Not even small things should be written now."""
        return self.paused and self._unread > MAX_UNREAD // 4

    # What is received

    def read(self, data: bytes) -> Iterator[Event]:
        """The events in what the peer sends. Raises `FaultError`."""
        for kind, flags, stream, payload in self._frames.feed(data):
            if self._open is not None and (kind != f.CONTINUATION or stream != self._open[0]):
                raise f.FaultError(f.PROTOCOL_ERROR, "a header block that breaks off")
            if kind == f.DATA:
                yield self._read_data(flags, stream, payload)
            elif kind == f.HEADERS or kind == f.CONTINUATION or kind == f.PUSH_PROMISE:
                event = self._read_block(kind, flags, stream, payload)
                if event is not None:
                    yield event
            elif kind == f.WINDOW_UPDATE:
                yield self._read_window(stream, payload)
            elif kind == f.RST_STREAM:
                yield RESET, _stream(stream), b"", _number(payload, 4), False
            elif kind == f.PING:
                _number(payload, 8)
                if flags & f.ACK:
                    yield PONG, 0, payload, 0, False
                else:
                    self.out.append(f.frame(f.PING, f.ACK, 0, payload))
            elif kind == f.SETTINGS:
                event = self._read_settings(flags, stream, payload)
                if event is not None:
                    yield event
            elif kind == f.GOAWAY:
                if len(payload) < 8:
                    raise f.FaultError(f.FRAME_SIZE_ERROR, "GOAWAY without a reason")
                last = int.from_bytes(payload[:4], "big") & f.MAX_STREAM
                yield GOAWAY, last, payload[8:], int.from_bytes(payload[4:8], "big"), False
            # PRIORITY and what nobody knows means nothing beyond this hop.

    def _read_data(self, flags: int, stream: int, payload: bytes) -> Event:
        size = len(payload)
        self._allowed -= size
        if self._allowed < 0:
            raise f.FaultError(f.FLOW_CONTROL_ERROR, "more DATA than was allowed")
        return DATA, _stream(stream), f.unpadded(flags, payload), size, flags & f.END_STREAM != 0

    def _read_window(self, stream: int, payload: bytes) -> Event:
        increment = _number(payload, 4) & f.MAX_WINDOW
        if stream == 0:
            if increment == 0:
                raise f.FaultError(f.PROTOCOL_ERROR, "a window that grows by nothing")
            self.window += increment
            if self.window > f.MAX_WINDOW:
                raise f.FaultError(f.FLOW_CONTROL_ERROR, "a window that is too large")
        return WINDOW_MORE, stream, b"", increment, False

    def _read_block(self, kind: int, flags: int, stream: int, payload: bytes) -> Event | None:
        promised = 0
        if kind == f.CONTINUATION:
            if self._open is None:
                raise f.FaultError(f.PROTOCOL_ERROR, "CONTINUATION of nothing")
            _, promised, end, parts, size = self._open
            if len(parts) > MAX_CONTINUATIONS:
                raise f.FaultError(f.ENHANCE_YOUR_CALM, "a header block in too many pieces")
        else:
            payload = f.unpadded(flags, payload)
            skipped = 5 if kind == f.HEADERS and flags & f.PRIORITISED else 4 if kind == f.PUSH_PROMISE else 0
            if len(payload) < skipped:
                raise f.FaultError(f.FRAME_SIZE_ERROR, "a header block that is too short")
            if kind == f.PUSH_PROMISE:
                promised = int.from_bytes(payload[:4], "big") & f.MAX_STREAM
            payload = payload[skipped:]
            end, parts, size = flags & f.END_STREAM != 0 and kind == f.HEADERS, [], 0
        if flags & f.END_HEADERS and not parts:
            block = payload
            self._open = None
        else:
            parts.append(payload)
            size += len(payload)
            check_size(size)
            if not flags & f.END_HEADERS:
                self._open = (_stream(stream), promised, end, parts, size)
                return None
            self._open = None
            block = b"".join(parts)
        block = self._blocks.read(block)
        if promised:
            return PROMISE, _stream(stream), b"", promised, False
        return HEADERS, _stream(stream), block, 0, end

    def _read_settings(self, flags: int, stream: int, payload: bytes) -> Event | None:
        if stream:
            raise f.FaultError(f.PROTOCOL_ERROR, "SETTINGS of a stream")
        self.alive = True
        if flags & f.ACK:
            if self.settings_open == 0:
                raise f.FaultError(f.PROTOCOL_ERROR, "SETTINGS acknowledged that were not sent")
            self._blocks.stateless = True
            self.settings_open -= 1
            return None
        before = self.initial
        for key, value in f.read_settings(payload):
            if key == f.INITIAL_WINDOW_SIZE:
                if value > f.MAX_WINDOW:
                    raise f.FaultError(f.FLOW_CONTROL_ERROR, "a window that is too large")
                self.initial = value
            elif key == f.MAX_CONCURRENT_STREAMS:
                self.max_streams = value
            elif key == f.ENABLE_CONNECT_PROTOCOL:
                self.connect_protocol = value == 1
        self.out.append(f.frame(f.SETTINGS, f.ACK, 0))
        return SETTINGS, 0, b"", self.initial - before, False


def _stream(number: int) -> int:
    if number == 0:
        raise f.FaultError(f.PROTOCOL_ERROR, "a frame of a stream without its number")
    return number


def _number(payload: bytes, size: int) -> int:
    if len(payload) != size:
        raise f.FaultError(f.FRAME_SIZE_ERROR, "a frame of the wrong length")
    return int.from_bytes(payload, "big")
