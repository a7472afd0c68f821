"""An HTTP/2 connection that carries one gRPC call, sans-IO (RFC 9113): frames, windows and header blocks.

One call is all that a tunnel needs. It lives in the event loop: a message costs no thread, no queue and no wake-up.
What breaks the protocol raises `FaultError` out of `receive`, and the connection has to end.
"""

from collections.abc import Callable, Sequence

import hpack

from tproxy.http.h2 import frames
from tproxy.http.h2.frames import FaultError
from tproxy.rpc.messages import PREFIX, Cutter
from tproxy.rpc.status import CANCELLED, UNAVAILABLE

MAX_FRAME_BYTES = 1024 * 1024
"""Of DATA that we take: large frames are cheaper than many."""

MAX_HEADER_BYTES = 8 * 1024
WINDOW = 16 * 1024 * 1024
"""What the peer may send beyond what has arrived. It holds no memory: whatever arrives is passed on at once, the
tunnel's own credit is what limits. A wide one spares a long path the slow start."""

_HEAD = 9  # of a frame
_MAX_CONTINUATIONS = 8
_SETTINGS = {
    frames.ENABLE_PUSH: 0,
    frames.MAX_CONCURRENT_STREAMS: 1,
    frames.INITIAL_WINDOW_SIZE: WINDOW,
    frames.MAX_FRAME_SIZE: MAX_FRAME_BYTES,
    frames.MAX_HEADER_LIST_SIZE: MAX_HEADER_BYTES,
}

Fields = dict[str, str]
"""Header fields by their names."""


class Call:
    """Either side's half. `output` is what has to be sent, in order, and is the caller's to take.

    `incoming` cuts what comes into messages. `on_end` is called once, when the peer has said its last: with its status,
    or None for the status where a client has only finished sending.
    """

    def __init__(self, client: bool) -> None:
        self.on_end: Callable[[int | None, str], None] = lambda _status, _details: None
        self.output: list[bytes | memoryview] = []
        self.incoming = Cutter()
        self._client = client
        self._stream = 1 if client else 0
        self._over = False  # the peer says no more
        self._ended = False  # neither do we
        self._decoder = hpack.Decoder(MAX_HEADER_BYTES)
        self._encoder = hpack.Encoder()
        # Receiving
        self._preface = b"" if client else frames.PREFACE
        self._rest = b""  # of a frame that is not complete
        self._left = 0  # bytes of a DATA frame that are to come
        self._last = False  # that one is the last
        self._block: bytearray | None = None  # of header fields
        self._block_flags = 0
        self._continuations = 0
        self._window = WINDOW
        # Sending
        self._room = frames.DEFAULT_WINDOW  # of the connection
        self._stream_room = frames.DEFAULT_WINDOW
        self._initial = frames.DEFAULT_WINDOW
        self._max_frame = frames.MAX_FRAME
        self._unsent: list[memoryview] = []
        start = frames.settings(_SETTINGS) + frames.window_update(0, WINDOW - frames.DEFAULT_WINDOW)
        self.output.append(frames.PREFACE + start if client else start)

    # Sending

    def send_headers(self, fields: Sequence[tuple[str, str]], end: bool = False) -> None:
        """Header fields, or trailers with `end`."""
        if not self._ended:
            self._ended = end
            self.output.append(frames.headers(self._stream, self._encoder.encode(fields), end))

    def send(self, message: bytes) -> None:
        """Put a message into `output` as far as the peer's window goes; `blocked` says whether all of it is."""
        if self._ended:
            return
        size = len(message) + PREFIX
        if not self._unsent and size <= self._max_frame and size <= self._room and size <= self._stream_room:
            self._room -= size
            self._stream_room -= size
            # Both heads in one: nine bytes of the frame's, five of the message's.
            head = (size << 88 | self._stream << 40 | size - PREFIX).to_bytes(_HEAD + PREFIX, "big")
            if size < 65536:
                self.output.append(head + message)
            else:
                self.output += (head, message)
            return
        self._unsent += (memoryview((size - PREFIX).to_bytes(PREFIX, "big")), memoryview(message))
        self._go_on()

    @property
    def blocked(self) -> bool:
        """Whether a message waits for the peer's window."""
        return bool(self._unsent)

    def reset(self, code: int) -> None:
        """End the call without further words."""
        if not self._ended or not self._over:
            self._over = self._ended = True
            self._unsent.clear()
            if self._stream:
                self.output.append(frames.rst_stream(self._stream, code))

    def _go_on(self) -> None:
        """Send what waits, as far as the windows go."""
        while self._unsent and (room := min(self._room, self._stream_room, self._max_frame)) > 0:
            size = min(sum(map(len, self._unsent)), room)
            self._room -= size
            self._stream_room -= size
            self.output.append(frames.head(frames.DATA, 0, self._stream, size))
            while size:
                part = self._unsent[0]
                if len(part) > size:
                    self._unsent[0] = part[size:]
                    part = part[:size]
                else:
                    del self._unsent[0]
                size -= len(part)
                self.output.append(part)

    # Receiving

    def receive(self, data: bytes) -> None:
        """Bytes of the peer's. Raises `FaultError`, and `TooLongError` of `incoming`'s."""
        if self._rest:
            data, self._rest = self._rest + data, b""
        if self._preface:
            if not self._prefaced(data):
                return
            data = data[len(frames.PREFACE) :]
        at, end = 0, len(data)
        while at < end:
            if self._left:
                stop = min(at + self._left, end)
                self._left -= stop - at
                if not self._over:
                    self.incoming.feed(data, at, stop)
                at = stop
                if not self._left and self._last:
                    self._finished()
                continue
            if end - at < _HEAD:
                break
            size = data[at] << 16 | data[at + 1] << 8 | data[at + 2]
            kind, flags = data[at + 3], data[at + 4]
            if kind == frames.DATA and not flags & frames.PADDED:
                self._data(data, at, size, flags)
                at += _HEAD
                continue
            if size > (MAX_FRAME_BYTES if kind == frames.DATA else frames.MAX_FRAME):
                raise FaultError(frames.FRAME_SIZE_ERROR, "a frame that is too long")
            if end - at < _HEAD + size:
                break
            stream = int.from_bytes(data[at + 5 : at + 9], "big") & frames.MAX_STREAM
            at += _HEAD
            if kind == frames.DATA:
                self._padded(data, at, size, flags)
            else:
                self._frame(kind, flags, stream, data[at : at + size])
            at += size
        if at < end:
            self._rest = data[at:]

    def _prefaced(self, data: bytes) -> bool:
        """Whether the client's preface is there."""
        if not data.startswith(self._preface[: len(data)]):
            raise FaultError(frames.PROTOCOL_ERROR, "no HTTP/2")
        if len(data) < len(self._preface):
            self._rest = data
            return False
        self._preface = b""
        return True

    def _data(self, data: bytes, at: int, size: int, flags: int) -> None:
        """The head of a DATA frame."""
        stream = int.from_bytes(data[at + 5 : at + 9], "big") & frames.MAX_STREAM
        if not stream or stream != self._stream or self._block is not None:
            raise FaultError(frames.PROTOCOL_ERROR, "DATA of no stream")
        if size > MAX_FRAME_BYTES:
            raise FaultError(frames.FRAME_SIZE_ERROR, "a frame that is too long")
        self._window -= size
        if self._window < 0:
            raise FaultError(frames.FLOW_CONTROL_ERROR, "DATA beyond the window")
        if self._window < WINDOW // 2:
            grant = WINDOW - self._window
            self._window = WINDOW
            self.output.append(frames.window_update(0, grant) + frames.window_update(stream, grant))
        self._left = size
        self._last = bool(flags & frames.END_STREAM)
        if not size and self._last:
            self._finished()

    def _padded(self, data: bytes, at: int, size: int, flags: int) -> None:
        """A DATA frame with padding."""
        self._data(data, at - _HEAD, size, flags & ~frames.END_STREAM)
        self._left = 0
        body = frames.unpadded(flags, data[at : at + size])
        if not self._over:
            self.incoming.feed(body, 0, len(body))
        if flags & frames.END_STREAM:
            self._finished()

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if self._block is not None and kind != frames.CONTINUATION:
            raise FaultError(frames.PROTOCOL_ERROR, "a header block that is not complete")
        match kind:
            case frames.HEADERS:
                self._begin_block(flags, stream, payload)
            case frames.CONTINUATION:
                self._continue_block(flags, stream, payload)
            case frames.SETTINGS:
                self._settings(flags, stream, payload)
            case frames.PING:
                if len(payload) != 8 or stream:
                    raise FaultError(frames.FRAME_SIZE_ERROR, "PING of another length")
                if not flags & frames.ACK:
                    self.output.append(frames.frame(frames.PING, frames.ACK, 0, payload))
            case frames.WINDOW_UPDATE:
                self._window_update(stream, payload)
            case frames.RST_STREAM:
                if len(payload) != 4 or not stream or stream > self._stream:
                    raise FaultError(frames.PROTOCOL_ERROR, "RST_STREAM of no stream")
                self._finished(CANCELLED)
            case frames.GOAWAY:
                if len(payload) < 8 or stream:
                    raise FaultError(frames.FRAME_SIZE_ERROR, "GOAWAY that is too short")
                if self._client and int.from_bytes(payload[:4], "big") & frames.MAX_STREAM < self._stream:
                    self._finished(UNAVAILABLE)
            case frames.PUSH_PROMISE:
                raise FaultError(frames.PROTOCOL_ERROR, "PUSH_PROMISE")

    def _begin_block(self, flags: int, stream: int, payload: bytes) -> None:
        if not self._stream and stream % 2:
            self._stream = stream
        elif stream != self._stream or not stream:
            raise FaultError(frames.ENHANCE_YOUR_CALM, "another stream: one call to a connection")
        payload = frames.unpadded(flags, payload)
        if flags & frames.PRIORITISED:
            payload = payload[5:]
        self._block, self._block_flags, self._continuations = bytearray(payload), flags, 0
        if flags & frames.END_HEADERS:
            self._end_block()

    def _continue_block(self, flags: int, stream: int, payload: bytes) -> None:
        if self._block is None or stream != self._stream:
            raise FaultError(frames.PROTOCOL_ERROR, "CONTINUATION of nothing")
        self._continuations += 1
        if self._continuations > _MAX_CONTINUATIONS or len(self._block) + len(payload) > frames.MAX_FRAME:
            raise FaultError(frames.ENHANCE_YOUR_CALM, "header fields that are too long")
        self._block += payload
        if flags & frames.END_HEADERS:
            self._end_block()

    def _end_block(self) -> None:
        assert self._block is not None  # noqa: S101
        block, self._block = bytes(self._block), None
        try:
            fields = {name.decode(): value.decode() for name, value in self._decoder.decode(block, raw=True)}
        except (hpack.HPACKError, UnicodeDecodeError) as error:
            raise FaultError(frames.COMPRESSION_ERROR, "header fields that cannot be read") from error
        if not self._over:
            self._fields(fields, bool(self._block_flags & frames.END_STREAM))

    def _fields(self, fields: Fields, end: bool) -> None:
        """Header fields, or trailers."""
        raise NotImplementedError

    def _finished(self, status: int | None = None, details: str = "") -> None:
        """The peer says no more."""
        self._last = False
        if not self._over:
            self._over = True
            self._unsent.clear()
            self.on_end(status, details)

    def _settings(self, flags: int, stream: int, payload: bytes) -> None:
        if stream:
            raise FaultError(frames.PROTOCOL_ERROR, "SETTINGS of a stream")
        if flags & frames.ACK:
            return
        for key, value in frames.read_settings(payload):
            if key == frames.INITIAL_WINDOW_SIZE:
                if value > frames.MAX_WINDOW:
                    raise FaultError(frames.FLOW_CONTROL_ERROR, "a window that is too wide")
                self._stream_room += value - self._initial
                self._initial = value
            elif key == frames.MAX_FRAME_SIZE:
                if not frames.MAX_FRAME <= value < 1 << 24:
                    raise FaultError(frames.PROTOCOL_ERROR, "frames of a size that is none")
                self._max_frame = value
            elif key == frames.HEADER_TABLE_SIZE:
                self._encoder.header_table_size = min(value, 4096)
        self.output.append(frames.frame(frames.SETTINGS, frames.ACK, 0))
        self._go_on()

    def _window_update(self, stream: int, payload: bytes) -> None:
        if len(payload) != 4 or stream > self._stream:
            raise FaultError(frames.PROTOCOL_ERROR, "WINDOW_UPDATE of no stream")
        grant = int.from_bytes(payload, "big") & frames.MAX_WINDOW
        if stream:
            self._stream_room += grant
        else:
            self._room += grant
        if not grant or max(self._room, self._stream_room) > frames.MAX_WINDOW:
            raise FaultError(frames.FLOW_CONTROL_ERROR, "a window that cannot be")
        self._go_on()
