"""The wire format of a Kubernetes port-forward over WebSocket (`v4.channel.k8s.io`), sans-IO.

Every binary message begins with a channel number; of the n-th port of the request 2n is data, both ways, and 2n+1 is
the text of an error, from the pod. On each channel the server first sends the port number, two bytes, little-endian.
There is no half-close: a connection ends as a whole.

    FIN|opcode  MASK|length  [length]  [mask]   channel  payload …
"""

import os
from dataclasses import dataclass

# The masking that aiohttp's own WebSocket does, in C: nothing in the standard library comes near its speed.
from aiohttp._websocket.helpers import websocket_mask

SUBPROTOCOL = "v4.channel.k8s.io"
DATA, ERROR = 0, 1
"""Channels of the first port."""

CONTROL_LIMIT = 125

_CONTINUATION, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x2, 0x8, 0x9, 0xA
_FIN, _MASK = 0x80, 0x80


class ProtocolError(Exception):
    """The other end does not speak this protocol."""


@dataclass(frozen=True, slots=True)
class Ping:
    """To be answered with `pong(payload)`."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Close:
    """The other end has sent its last message."""


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes of one channel, in order, cut anywhere."""

    channel: int
    payload: memoryview


Event = Data | Ping | Close


class Decoder:
    """What the server sends, bytes in, events out.

    Payload is passed on as it comes: no message is ever held whole, however long it says it is.
    """

    def __init__(self) -> None:
        self._pending = b""  # a header, or a control frame, not yet complete
        self._left = 0  # bytes of the current data frame still to come
        self._channel: int | None = None  # of the current message; None before its first byte
        self._in_message = False

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes. Raises `ProtocolError`; the decoder is of no use afterwards."""
        if self._pending:
            data = self._pending + data
            self._pending = b""
        view = memoryview(data)
        events: list[Event] = []
        at, end = 0, len(data)
        while at < end:
            if self._left:
                at = self._payload(view, at, events)
                continue
            header = _header(data, at)
            if header is None:
                break
            opcode, final, start, length = header
            if opcode >= _CLOSE:
                if start + length > end:
                    break
                self._control(opcode, bytes(view[start : start + length]), events)
                at = start + length
            else:
                self._begin(opcode)
                self._in_message = not final
                self._left = length
                at = start
        self._pending = data[at:]
        return events

    def _begin(self, opcode: int) -> None:
        if (opcode == _CONTINUATION) != self._in_message:
            raise ProtocolError("a fragment without a beginning, or a beginning without an end")
        if opcode == _BINARY:
            self._channel = None
        elif opcode != _CONTINUATION:
            raise ProtocolError(f"unexpected opcode {opcode}")

    def _payload(self, view: memoryview, at: int, events: list[Event]) -> int:
        if self._channel is None:
            self._channel = view[at]
            self._left -= 1
            at += 1
        part = view[at : at + self._left]
        if part:
            events.append(Data(self._channel, part))
            self._left -= len(part)
        return at + len(part)

    def _control(self, opcode: int, payload: bytes, events: list[Event]) -> None:
        if opcode == _CLOSE:
            events.append(Close())
        elif opcode == _PING:
            events.append(Ping(payload))
        elif opcode != _PONG:
            raise ProtocolError(f"unexpected opcode {opcode}")


def _header(data: bytes, at: int) -> tuple[int, bool, int, int] | None:
    """Opcode, whether it is final, where the payload starts and its length; None if the header is incomplete."""
    if len(data) - at < 2:
        return None
    first, length = data[at], data[at + 1]
    opcode, final = first & 0x0F, bool(first & _FIN)
    if first & 0x70 or length & _MASK:
        raise ProtocolError("a frame with reserved bits, or a masked one")
    if opcode >= _CLOSE and (length > CONTROL_LIMIT or not final):
        raise ProtocolError("an oversized or fragmented control frame")
    extra = {126: 2, 127: 8}.get(length, 0)
    start = at + 2 + extra
    if len(data) < start:
        return None
    if extra:
        length = int.from_bytes(data[at + 2 : start], "big")
    if length >> 63:
        raise ProtocolError("a frame longer than there can be")
    return opcode, final, start, length


def message(channel: int, payload: bytes) -> bytes:
    """One message to the server."""
    body = bytearray(1 + len(payload))
    body[0] = channel
    body[1:] = payload
    return _frame(_BINARY, body)


def pong(payload: bytes) -> bytes:
    """The answer to a Ping."""
    return _frame(_PONG, bytearray(payload))


def close() -> bytes:
    """Our last message: normal closure."""
    return _frame(_CLOSE, bytearray((1000).to_bytes(2, "big")))


def _frame(opcode: int, body: bytearray) -> bytes:
    length = len(body)
    if length < 126:
        header = bytes((_FIN | opcode, _MASK | length))
    elif length < 1 << 16:
        header = bytes((_FIN | opcode, _MASK | 126)) + length.to_bytes(2, "big")
    else:
        header = bytes((_FIN | opcode, _MASK | 127)) + length.to_bytes(8, "big")
    mask = os.urandom(4)
    websocket_mask(mask, body)
    return header + mask + body
