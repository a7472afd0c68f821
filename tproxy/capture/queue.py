"""Who wants to connect where, as the kernel's packet queue tells, and the answers to it. Sans-IO.

The messages of nfnetlink_queue (linux/netfilter/nfnetlink_queue.h): one queue, whose packets are all TCP SYNs.
"""

import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from tproxy.capture.layout import QUEUE
from tproxy.model.flow import Address
from tproxy.netns.netlink import attribute, attributes

LONGEST_MESSAGE = 65536
MAX_WAITING = 4096
"""SYNs that may wait for a verdict; one more is dropped, and comes again a second later."""

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port id
_GENERIC = struct.Struct("!BBH")  # nfgenmsg: family, version, queue
_SUBSYSTEM = 3 << 8
_PACKET, _VERDICT, _CONFIG = 0, 1, 2
_REQUEST, _ACK = 1, 4
_ERROR = 2
_CFG_CMD, _CFG_PARAMS, _CFG_QUEUE_MAXLEN = 1, 2, 3
_BIND = 1
_COPY_PACKET = 2
_PACKET_HDR, _VERDICT_HDR, _MARK, _PAYLOAD = 1, 2, 3, 10
_KIND_MASK = 0x3FFF
_NF_DROP, _NF_REPEAT = 0, 4
_HEADERS = 128
"""How much of a packet we want: the IP header and the ports."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A SYN that waits. `number` is the packet's in the queue."""

    number: int
    source: Address
    destination: Address


def bind(queue: int = QUEUE) -> bytes:
    """The messages that make a socket the queue's reader. Each has an answer of its own."""
    settings = (
        attribute(_CFG_CMD, struct.pack("!BxH", _BIND, 0)),
        attribute(_CFG_PARAMS, struct.pack("!IB", _HEADERS, _COPY_PACKET)),
        attribute(_CFG_QUEUE_MAXLEN, struct.pack("!I", MAX_WAITING)),
    )
    return b"".join(_message(_CONFIG, setting, queue, _ACK) for setting in settings)


def errors(data: bytes) -> Iterator[int]:
    """The error numbers in what the kernel answered, 0 for what went well."""
    for kind, body in _messages(data):
        if kind == _ERROR:
            yield -int.from_bytes(body[:4], sys.byteorder, signed=True)


def asked(data: bytes) -> Iterator[Asked]:
    """Who asks, of the messages in `data`; what is no such message is passed over."""
    for kind, body in _messages(data):
        if kind == _SUBSYSTEM | _PACKET:
            found = {number & _KIND_MASK: value for number, value in attributes(body[_GENERIC.size :])}
            flow = _flow(found.get(_PAYLOAD, b""))
            if flow is not None and len(header := found.get(_PACKET_HDR, b"")) >= 4:
                yield Asked(int.from_bytes(header[:4], "big"), *flow)


def verdict(number: int, mark: int | None, queue: int = QUEUE) -> bytes:
    """The answer for a packet: it goes through the rules again with `mark`; without one it is dropped."""
    what = struct.pack("!II", _NF_DROP if mark is None else _NF_REPEAT, number)
    marked = b"" if mark is None else attribute(_MARK, struct.pack("!I", mark))
    return _message(_VERDICT, attribute(_VERDICT_HDR, what) + marked, queue)


def _message(kind: int, body: bytes, queue: int, flags: int = 0) -> bytes:
    whole = _GENERIC.pack(0, 0, queue) + body
    return _HEADER.pack(_HEADER.size + len(whole), _SUBSYSTEM | kind, _REQUEST | flags, 0, 0) + whole


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            return
        yield kind, data[at + _HEADER.size : at + length]
        at += (length + 3) & ~3


def _flow(packet: bytes) -> tuple[Address, Address] | None:
    """Source and destination of a TCP packet. The kernel's rule has looked at its protocol."""
    version = packet[0] >> 4 if packet else 0
    if version == 4:
        source, destination, tcp = packet[12:16], packet[16:20], packet[(packet[0] & 15) * 4 :]
    elif version == 6:
        source, destination, tcp = packet[8:24], packet[24:40], _after_extensions(packet)
    else:
        return None
    if len(destination) not in (4, 16) or len(tcp) < 4:
        return None
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    ports = struct.unpack_from("!HH", tcp)
    return Address(socket.inet_ntop(family, source), ports[0]), Address(socket.inet_ntop(family, destination), ports[1])


_TCP = 6
_EXTENSIONS = (0, 43, 60)  # hop-by-hop, routing, destination options


def _after_extensions(packet: bytes) -> bytes:
    kind, at = (packet[6], 40) if len(packet) > 40 else (0, len(packet))
    while kind in _EXTENSIONS and at + 8 <= len(packet):
        kind, at = packet[at], at + 8 + packet[at + 1] * 8
    return packet[at:] if kind == _TCP else b""
