"""Packets of one interface of a network namespace, by a packet socket with a ring (TPACKET_V3) that the kernel fills.

The ring is memory of a fixed size. What does not fit, because it is not read fast enough, the kernel drops and counts.
"""

import ctypes
import mmap
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from tproxy.netns.handle import Netns
from tproxy.trace import packet_filter, pcapng

BLOCK = 1 << 20
BLOCKS = 8
RETIRE_MILLISECONDS = 100
"""How long the kernel waits for a block to fill before it hands it over."""

_SOL_PACKET = 263
_RX_RING, _STATISTICS, _VERSION = 5, 6, 10
_TPACKET_V3 = 2
_ATTACH_FILTER = 26
_ALL_PROTOCOLS = 0x0003
_FRAME = 2048  # has no meaning of its own in version 3, but must divide a block
_KERNEL, _USER = 0, 1  # who has a block

_BLOCK = struct.Struct("=IIIII")  # version, offset of private data, status, packets, offset of the first
_STATUS = struct.Struct("=I")
_STATUS_AT = 8
# struct tpacket3_hdr: offset of the next, seconds, nanoseconds, bytes kept, bytes, status, where they begin.
_PACKET = struct.Struct("=IIIIIIH")
_TYPE_AT = 48 + 10  # in the address behind it, struct sockaddr_ll
_ETHERNET_LIKE = (1, 772)  # ARPHRD_ETHER, ARPHRD_LOOPBACK
_OUTGOING = 4


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet: when it was seen in nanoseconds since 1970, what was kept of it, how long it was."""

    time: int
    data: bytes
    length: int
    direction: int


def interfaces(netns: Netns) -> list[str]:
    """Names of a namespace's interfaces. Raises OSError."""
    with netns.entered():
        return [name for _, name in socket.if_nameindex()]


class PacketSocket:
    """Those of the interface `name`. Raises OSError."""

    def __init__(self, netns: Netns, name: str, port: int, snap_length: int) -> None:
        self.name = name
        self.received = 0
        self.dropped = 0
        self._next = 0
        # Deaf until it is bound: no packet passes before the filter is there.
        with netns.entered():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        try:
            self._socket.setsockopt(_SOL_PACKET, _VERSION, _TPACKET_V3)
            # struct tpacket_req3: blocks, frames, after how long a block is handed over.
            frames = BLOCK // _FRAME * BLOCKS
            ring = struct.pack("=IIIIIII", BLOCK, BLOCKS, _FRAME, frames, RETIRE_MILLISECONDS, 0, 0)
            self._socket.setsockopt(_SOL_PACKET, _RX_RING, ring)
            self._filter(port, snap_length)
            self._ring = mmap.mmap(self._socket.fileno(), BLOCK * BLOCKS)
            self._socket.bind((name, _ALL_PROTOCOLS))
            self.link = _link(self._socket.getsockname()[3])
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """Readable when there are packets."""
        return self._socket.fileno()

    def read(self) -> Iterator[Packet]:
        """The packets of the next block, if the kernel has handed one over."""
        at = self._next * BLOCK
        _, _, status, count, first = _BLOCK.unpack_from(self._ring, at)
        if not status & _USER:
            # An interface that goes down makes the socket readable until somebody asks why.
            self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            return
        position = at + first
        for _ in range(count):
            following, seconds, nanoseconds, kept, length, _, begins = _PACKET.unpack_from(self._ring, position)
            data = self._ring[position + begins : position + begins + kept]
            outgoing = self._ring[position + _TYPE_AT] == _OUTGOING
            direction = pcapng.OUTBOUND if outgoing else pcapng.INBOUND
            yield Packet(seconds * 1_000_000_000 + nanoseconds, data, length, direction)
            position += following
        _STATUS.pack_into(self._ring, at + _STATUS_AT, _KERNEL)
        self._next = (self._next + 1) % BLOCKS

    def count(self) -> None:
        """Bring `received` and `dropped` up to date. The kernel counts from the last look on."""
        packets, drops, _ = struct.unpack("=III", self._socket.getsockopt(_SOL_PACKET, _STATISTICS, 12))
        self.received += packets  # the dropped ones among them
        self.dropped += drops

    def close(self) -> None:
        """Release it. Idempotent."""
        self._ring.close()
        self._socket.close()

    def _filter(self, port: int, snap_length: int) -> None:
        program = packet_filter.packed(packet_filter.build(port, snap_length))
        code = ctypes.create_string_buffer(program, len(program))
        attached = _Program(len(program) // 8, ctypes.addressof(code))
        self._socket.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, bytes(attached))


def _link(hardware: int) -> int:
    """What a packet begins with: an Ethernet header, or at once IP, as in tunnels."""
    return pcapng.LINK_ETHERNET if hardware in _ETHERNET_LIKE else pcapng.LINK_RAW
