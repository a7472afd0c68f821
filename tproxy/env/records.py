"""How a node answers READ: records, each a kind, a length and that many bytes. Sans-IO.

environ   one ENVIRON: what /proc/PID/environ holds
files     one FILES (`tproxy.env.archive`) at once, and another whenever they have changed, until the laptop closes
either    one OWN_RIGHTS instead: this node lets nobody read; the laptop may ask the API server as its user
"""

import enum
import struct
from collections.abc import Iterator

_HEADER = struct.Struct("!BI")  # kind, length of the payload

MAX_ENVIRON_BYTES = 4 * 1024 * 1024
MAX_FILES_BYTES = 32 * 1024 * 1024
"""Of an archive, which is longer than what is in it."""


class RecordKind(enum.IntEnum):
    """What a record holds."""

    ENVIRON = 1
    FILES = 2
    OWN_RIGHTS = 3


_LIMITS = {
    RecordKind.ENVIRON: MAX_ENVIRON_BYTES,
    RecordKind.FILES: MAX_FILES_BYTES,
    RecordKind.OWN_RIGHTS: 0,
}


class RecordError(Exception):
    """Bytes that are no records. The text carries nothing the peer sent."""


def record(kind: RecordKind, payload: bytes = b"") -> bytes:
    """One record. Raises `RecordError` if `payload` is longer than its kind may be."""
    if len(payload) > _LIMITS[kind]:
        raise RecordError(f"a record of {len(payload)} bytes is too long")
    return _HEADER.pack(kind, len(payload)) + payload


class RecordReader:
    """Takes bytes as they come and gives whole records."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes | memoryview) -> Iterator[tuple[RecordKind, bytes]]:
        """The records that `data` completes. Raises `RecordError`, after which nothing more makes sense."""
        self._held += data
        while len(self._held) >= _HEADER.size:
            number, length = _HEADER.unpack_from(self._held)
            try:
                kind = RecordKind(number)
            except ValueError:
                raise RecordError("a record of an unknown kind") from None
            if length > _LIMITS[kind]:
                raise RecordError("a record that is too long")
            end = _HEADER.size + length
            if len(self._held) < end:
                return
            payload = bytes(self._held[_HEADER.size : end])
            del self._held[:end]
            yield kind, payload
