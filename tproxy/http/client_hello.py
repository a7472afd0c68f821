"""Looks into a TLS ClientHello as far as needed to see whether it names the server it wants (RFC 8446, RFC 6066)."""

HANDSHAKE = b"\x16"
"""The first byte of a TLS connection."""

_CLIENT_HELLO = 1
_SERVER_NAME = 0
_RECORD_HEADER = 5
_MAX_RECORD = 16384
_VERSION_AND_RANDOM = 2 + 32


class _End(Exception):
    """There are not that many bytes."""


class _Reader:
    """Takes bytes off the front, never more than there are."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise _End
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> bytes:
        """Bytes preceded by their count in `size` bytes."""
        return self.take(self.number(size))


def names_server(data: bytes) -> bool | None:
    """Whether a ClientHello at the start of `data` carries a server's name; None if its record is not complete.

    True also for what is no ClientHello, or one spread over several records: nothing that a health check would send.
    """
    if data[:1] != HANDSHAKE or data[1:2] not in (b"", b"\x03"):
        return True
    if len(data) < _RECORD_HEADER:
        return None
    length = int.from_bytes(data[3:5], "big")
    if length > _MAX_RECORD or data[5:6] not in (b"", bytes([_CLIENT_HELLO])):
        return True
    if len(data) < _RECORD_HEADER + length:
        return None
    try:
        record = _Reader(data[_RECORD_HEADER : _RECORD_HEADER + length])
        record.take(1)
        return _has_name(_Reader(record.vector(3)))
    except _End:
        return True


def _has_name(hello: _Reader) -> bool:
    hello.take(_VERSION_AND_RANDOM)
    hello.vector(1)  # session
    hello.vector(2)  # cipher suites
    hello.vector(1)  # compression methods
    if not hello.left:
        return False  # from before there were extensions
    extensions = _Reader(hello.vector(2))
    while extensions.left:
        kind = extensions.number(2)
        extensions.vector(2)
        if kind == _SERVER_NAME:
            return True
    return False
