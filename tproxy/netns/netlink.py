"""Talking to the kernel over netlink: lists and commands, just enough for addresses, socket states and ipsets.

pyroute2 does this and far more, at 24 MiB and a quarter of a second to import; the node daemon cannot afford that.
"""

import os
import socket
import struct
import sys
from collections.abc import Iterator

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port id
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_REQUEST_DUMP = 0x001 | 0x300  # NLM_F_REQUEST | NLM_F_DUMP
_REQUEST_ACK = 0x001 | 0x004  # NLM_F_REQUEST | NLM_F_ACK
_ERROR = 2  # NLMSG_ERROR
_DONE = 3  # NLMSG_DONE
_BUFFER = 65536


class Netlink:
    """A netlink socket of one `protocol` in the network namespace of the thread that made it, for good."""

    def __init__(self, protocol: int) -> None:
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)

    def dump(self, kind: int, request: bytes) -> Iterator[bytes]:
        """The bodies of all answers to a dump request of message type `kind`; raises OSError.

        The kernel answers within the system calls themselves, so this never waits.
        """
        self._sock.send(_HEADER.pack(_HEADER.size + len(request), kind, _REQUEST_DUMP, 0, 0) + request)
        while True:
            data = self._sock.recv(_BUFFER)
            at = 0
            while at < len(data):
                length, answer, *_ = _HEADER.unpack_from(data, at)
                body = data[at + _HEADER.size : at + length]
                if answer in (_ERROR, _DONE):
                    # DONE carries a result as well; it is negative if the dump broke off.
                    number = -int.from_bytes(body[:4], sys.byteorder, signed=True)
                    if number:
                        raise OSError(number, os.strerror(number))
                    return
                yield body
                at += _aligned(length)

    def command(self, kind: int, request: bytes, flags: int = 0) -> None:
        """Have one thing done; raises OSError if the kernel says no. It too is over when this returns."""
        self._sock.send(_HEADER.pack(_HEADER.size + len(request), kind, _REQUEST_ACK | flags, 0, 0) + request)
        answer = self._sock.recv(_BUFFER)
        number = -int.from_bytes(answer[_HEADER.size : _HEADER.size + 4], sys.byteorder, signed=True)
        if number:
            raise OSError(number, os.strerror(number))

    def close(self) -> None:
        """Release the socket. Idempotent."""
        self._sock.close()


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute with its padding."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(_aligned(length) - length)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The type, as it was sent with its flags, and the value of each attribute in `data`."""
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            return
        yield kind, data[at + _ATTRIBUTE.size : at + length]
        at += _aligned(length)


def _aligned(length: int) -> int:
    return (length + 3) & ~3
