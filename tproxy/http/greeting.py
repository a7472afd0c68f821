"""An HTTP/2 server's part until the client's first request is known (RFC 9113), and how to get out of it again.

A gRPC client says nothing of what it wants before the server has sent its SETTINGS. So that these need not come from a
server which may be stopped at a breakpoint, we send some, which promise nothing beyond the protocol's initial values:

    client ──preface, SETTINGS──►  ◄──SETTINGS, ACK──  ──ACK, HEADERS──►      decided, who shall have it
    all of it without the ACK ──► server           its SETTINGS, without its ACK ──► client

From then on the two understand each other as if they had met by themselves: SETTINGS may come at any time, and each has
had one ACK for each of its own.
"""

from hpack import Decoder
from hpack.exceptions import HPACKError

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
OUR_SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])

_ACK_OF_SETTINGS = bytes([0, 0, 0, 4, 1, 0, 0, 0, 0])
_HEADER = 9
_MAX_FRAME = 16384
_MAX_HELD = 64 * 1024
_DATA, _HEADERS, _PRIORITY, _SETTINGS, _PING, _WINDOW_UPDATE, _CONTINUATION = 0, 1, 2, 4, 6, 8, 9
_END_HEADERS, _PADDED, _PRIORITISED, _ACK = 4, 8, 32, 1


def are_settings(data: bytes | memoryview) -> bool:
    """Whether a server that speaks first seems to speak HTTP/2: it begins with a SETTINGS frame."""
    start = bytes(data[:_HEADER])
    length = int.from_bytes(start[:3], "big")
    return len(start) == _HEADER and start[3:] == OUR_SETTINGS[3:] and length % 6 == 0 and length <= 600


class Greeting:
    """Takes what the client sends, from its first byte on.

    `fields` are those of the first request once they are known, and `failed` says that none will be; the client's bytes
    are in `held` then, for whoever shall have them.
    """

    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] | None = None
        self.failed = False
        self.acknowledged = False  # the client has acknowledged our SETTINGS
        self.answered = False  # we have acknowledged the client's
        self._rest = b""  # not yet understood
        self._held: list[bytes] = []
        self._size = 0
        self._block = b""
        self._greeted = False

    @property
    def held(self) -> bytes:
        """What the client has sent, but for its acknowledgement of our SETTINGS and what we have answered."""
        return b"".join(self._held) + self._rest

    def feed(self, data: bytes) -> bytes:
        """The client sends `data`; what to answer."""
        self._rest += data
        if not self._greeted:
            if len(self._rest) < len(PREFACE):
                self.failed = not PREFACE.startswith(self._rest)
                return b""
            if not self._rest.startswith(PREFACE):
                self.failed = True
                return b""
            self._greeted = True
            self._keep(len(PREFACE))
        answer = b""
        while self.fields is None and not self.failed and len(self._rest) >= _HEADER:
            size = _HEADER + int.from_bytes(self._rest[:3], "big")
            if size > _HEADER + _MAX_FRAME or self._size + size > _MAX_HELD:
                self.failed = True
            elif len(self._rest) < size:
                break
            else:
                answer += self._frame(self._rest[3], self._rest[4], self._rest[_HEADER:size], size)
        return answer

    def _keep(self, size: int) -> None:
        self._held.append(self._rest[:size])
        self._rest = self._rest[size:]
        self._size += size

    def _frame(self, kind: int, flags: int, payload: bytes, size: int) -> bytes:
        if self._block and kind != _CONTINUATION:
            self.failed = True
            return b""
        if kind == _SETTINGS and flags & _ACK:
            self.acknowledged = True
            self._rest = self._rest[size:]
            return b""
        if kind == _PING and not flags & _ACK:
            self._rest = self._rest[size:]
            return bytes([0, 0, 8, _PING, _ACK, 0, 0, 0, 0]) + payload
        self._keep(size)
        if kind == _SETTINGS and not self.answered:
            self.answered = True
            return _ACK_OF_SETTINGS
        if kind == _HEADERS:
            self._block = _unpadded(flags, payload)
            if not self._block:
                self.failed = True
        elif kind == _CONTINUATION and self._block:
            self._block += payload
        elif kind not in (_WINDOW_UPDATE, _PRIORITY):
            self.failed = True
            return b""
        if kind in (_HEADERS, _CONTINUATION) and flags & _END_HEADERS:
            self._decode()
        return b""

    def _decode(self) -> None:
        try:
            self.fields = [(bytes(name), bytes(value)) for name, value in Decoder().decode(self._block, raw=True)]
        except (HPACKError, ValueError, IndexError):
            self.failed = True

    def filters(self) -> tuple["DropAck", "DropAck"]:
        """What the client, and the server that gets what is `held`, send from now on must go through."""
        return DropAck(done=self.acknowledged), DropAck(done=not self.answered)


def _unpadded(flags: int, payload: bytes) -> bytes:
    """The block of a HEADERS frame; empty if there is none."""
    if flags & _PADDED:
        if not payload or payload[0] >= len(payload):
            return b""
        payload = payload[1 : len(payload) - payload[0]]
    return payload[5:] if flags & _PRIORITISED else payload


class DropAck:
    """Lets everything in one direction through but the first acknowledgement of SETTINGS. Begins between two frames."""

    def __init__(self, done: bool = False) -> None:
        self.done = done
        self._header = b""
        self._left = 0  # of the frame under way

    def feed(self, data: bytes) -> bytes:
        """What of `data` goes on. Once `done`, all of it."""
        passed = []
        at = 0
        while at < len(data):
            if self.done:
                passed.append(data[at:])
                break
            if self._left:
                size = min(self._left, len(data) - at)
                passed.append(data[at : at + size])
                self._left -= size
                at += size
                continue
            size = min(_HEADER - len(self._header), len(data) - at)
            self._header += data[at : at + size]
            at += size
            if len(self._header) < _HEADER:
                break
            if self._header == _ACK_OF_SETTINGS:
                self.done = True
            else:
                self._left = int.from_bytes(self._header[:3], "big")
                passed.append(self._header)
            self._header = b""
        return b"".join(passed)
