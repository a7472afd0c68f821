"""Packets as pcapng, which Wireshark and tcpdump read (draft-ietf-opsawg-pcapng). Sans-IO.

    section header, interfaces, then packets and statistics in any order

Numbers are of the machine's own byte order, which the section header tells; times are nanoseconds.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

SECTION, INTERFACE, STATISTICS, PACKET = 0x0A0D0D0A, 1, 5, 6
LINK_ETHERNET, LINK_RAW = 1, 101
INBOUND, OUTBOUND = 1, 2
"""Directions of `packet`; 0 is unknown."""

MAX_BLOCK = 16 * 1024 * 1024
"""No block of ours is so long; whoever reads a longer length reads something else."""

_MAGIC = 0x1A2B3C4D
_NANOSECONDS = 9  # if_tsresol: a power of ten
_UNKNOWN_LENGTH = 0xFFFFFFFFFFFFFFFF

# Codes of options, each within its own kind of block.
_COMMENT, _END = 1, 0
_SECTION_OS, _SECTION_APPLICATION = 3, 4
_INTERFACE_NAME, _INTERFACE_RESOLUTION, _INTERFACE_FILTER = 2, 9, 11
_PACKET_FLAGS = 2
_STATISTICS_RECEIVED, _STATISTICS_DROPPED = 4, 5


def section(application: str, system: str, comment: str = "") -> bytes:
    """The beginning: which program wrote this, on which system."""
    options = _text(_COMMENT, comment) + _text(_SECTION_OS, system) + _text(_SECTION_APPLICATION, application)
    return _block(SECTION, struct.pack("=IHHQ", _MAGIC, 1, 0, _UNKNOWN_LENGTH) + _options(options))


def interface(name: str, link: int, snap_length: int, kept: str = "") -> bytes:
    """The next interface; the first one is number 0. `kept` says which of its packets are."""
    options = (
        _text(_INTERFACE_NAME, name)
        + _option(_INTERFACE_RESOLUTION, bytes([_NANOSECONDS]))
        + (_option(_INTERFACE_FILTER, b"\0" + kept.encode()) if kept else b"")
    )
    return _block(INTERFACE, struct.pack("=HHI", link, 0, snap_length) + _options(options))


def packet(number: int, nanoseconds: int, data: bytes | memoryview, length: int, direction: int = 0) -> bytes:
    """A packet of interface `number`: what was kept of it, how long it was, when it was seen (since 1970)."""
    head = struct.pack(
        "=IIIII", number, nanoseconds >> 32 & 0xFFFFFFFF, nanoseconds & 0xFFFFFFFF, len(data), max(length, len(data))
    )
    options = _options(_option(_PACKET_FLAGS, struct.pack("=I", direction))) if direction else b""
    return _block(PACKET, b"".join((head, data, bytes(-len(data) % 4), options)))


def statistics(number: int, nanoseconds: int, received: int, dropped: int) -> bytes:
    """How many packets interface `number` has had so far, and how many of them were lost for want of room."""
    options = _option(_STATISTICS_RECEIVED, struct.pack("=Q", received)) + _option(
        _STATISTICS_DROPPED, struct.pack("=Q", dropped)
    )
    time = struct.pack("=III", number, nanoseconds >> 32 & 0xFFFFFFFF, nanoseconds & 0xFFFFFFFF)
    return _block(STATISTICS, time + _options(options))


@dataclass(frozen=True, slots=True)
class Block:
    """One block, whole: its kind and all of its bytes."""

    kind: int
    data: bytes

    @property
    def statistics(self) -> tuple[int, int, int] | None:
        """Interface, packets received and dropped, of a block of statistics as `statistics` writes it."""
        if self.kind != STATISTICS or len(self.data) < 48:
            return None
        (number,) = struct.unpack_from("=I", self.data, 8)
        received, dropped = (struct.unpack_from("=Q", self.data, at)[0] for at in (24, 36))
        return number, received, dropped


class Blocks:
    """Finds the blocks in a stream of bytes, so that only whole ones are passed on. Raises ValueError if it is none."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes | bytearray | memoryview) -> Iterator[Block]:
        """The blocks that are complete by now."""
        self._rest += data
        at = 0
        while len(self._rest) - at >= 8:
            kind, length = struct.unpack_from("=II", self._rest, at)
            if not 12 <= length <= MAX_BLOCK or length % 4:
                raise ValueError("this is no pcapng")
            if len(self._rest) - at < length:
                break
            yield Block(kind, bytes(self._rest[at : at + length]))
            at += length
        del self._rest[:at]


def _block(kind: int, body: bytes) -> bytes:
    length = len(body) + 12
    return struct.pack("=II", kind, length) + body + struct.pack("=I", length)


def _option(code: int, value: bytes) -> bytes:
    value = value[:0xFFFF]
    return struct.pack("=HH", code, len(value)) + value + bytes(-len(value) % 4)


def _text(code: int, text: str) -> bytes:
    return _option(code, text.encode()[:0xFFFC]) if text else b""


def _options(options: bytes) -> bytes:
    return options + _option(_END, b"") if options else b""
