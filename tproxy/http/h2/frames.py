"""Frames of HTTP/2 as bytes (RFC 9113, sections 4 and 6)."""

import struct
from collections.abc import Iterator, Mapping

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client says first (3.4)."""

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

END_STREAM = 0x1
ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITISED = 0x20

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = 0x0, 0x1, 0x2, 0x3
STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL = 0x5, 0x6, 0x7, 0x8
COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 0x9, 0xB

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 0x1, 0x2, 0x3, 0x4
MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE, ENABLE_CONNECT_PROTOCOL = 0x5, 0x6, 0x8

MAX_FRAME = 16384
"""Longest payload that anybody has to take, and the longest that we do."""

DEFAULT_WINDOW = 65535
MAX_WINDOW = 2**31 - 1
MAX_STREAM = 2**31 - 1
_HEAD = 9
_SETTING = struct.Struct(">HI")

Frame = tuple[int, int, int, bytes]
"""Type, flags, stream, payload."""


class FaultError(Exception):
    """The connection cannot go on: `code` is for GOAWAY."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


class FrameReader:
    """Cuts bytes into frames. Holds at most one that is not complete."""

    __slots__ = ("_need", "_rest")

    def __init__(self) -> None:
        self._rest = bytearray()
        self._need = _HEAD

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete now. Raises `FaultError` before it holds what is too long."""
        rest = self._rest
        if rest:
            rest += data
            if len(rest) < self._need:
                return
            data = bytes(rest)
            rest.clear()
        at, end = 0, len(data)
        need = _HEAD
        while end - at >= _HEAD:
            length = data[at] << 16 | data[at + 1] << 8 | data[at + 2]
            if length > MAX_FRAME:
                raise FaultError(FRAME_SIZE_ERROR, f"a frame of {length} bytes")
            need = _HEAD + length
            if end - at < need:
                break
            stream = int.from_bytes(data[at + 5 : at + 9], "big") & MAX_STREAM
            yield data[at + 3], data[at + 4], stream, data[at + _HEAD : at + need]
            at += need
            need = _HEAD
        if at < end:
            rest += data[at:]
            self._need = need


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return (len(payload) << 48 | kind << 40 | flags << 32 | stream).to_bytes(9, "big") + payload


def head(kind: int, flags: int, stream: int, length: int) -> bytes:
    """A frame's first nine bytes."""
    return (length << 48 | kind << 40 | flags << 32 | stream).to_bytes(9, "big")


def settings(values: Mapping[int, int]) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(key, value) for key, value in values.items()))


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """What a SETTINGS frame says, in order."""
    if len(payload) % 6:
        raise FaultError(FRAME_SIZE_ERROR, "SETTINGS of odd length")
    return list(_SETTING.iter_unpack(payload))


def window_update(stream: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame; of the connection where `stream` is 0."""
    return frame(WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


def rst_stream(stream: int, code: int) -> bytes:
    """A RST_STREAM frame."""
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def goaway(last: int, code: int, why: bytes = b"") -> bytes:
    """A GOAWAY frame."""
    return frame(GOAWAY, 0, 0, last.to_bytes(4, "big") + code.to_bytes(4, "big") + why)


def headers(stream: int, block: bytes, end_stream: bool) -> bytes:
    """A header block in HEADERS and as many CONTINUATIONs as it takes."""
    flags = END_STREAM if end_stream else 0
    if len(block) <= MAX_FRAME:
        return frame(HEADERS, flags | END_HEADERS, stream, block)
    parts = [block[at : at + MAX_FRAME] for at in range(0, len(block), MAX_FRAME)]
    made = [frame(HEADERS, flags, stream, parts[0])]
    made += [frame(CONTINUATION, 0, stream, part) for part in parts[1:-1]]
    return b"".join([*made, frame(CONTINUATION, END_HEADERS, stream, parts[-1])])


def unpadded(flags: int, payload: bytes) -> bytes:
    """A DATA or HEADERS frame's payload without padding. Raises `FaultError`."""
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise FaultError(PROTOCOL_ERROR, "padding longer than the frame")
    return payload[1 : len(payload) - payload[0]]
