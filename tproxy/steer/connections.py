"""Established TCP connections of a network namespace, as the kernel's socket diagnosis lists and ends them."""

import errno
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tproxy.netns.handle import Netns
from tproxy.netns.netlink import Netlink

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_SOCK_DESTROY = 21
_ESTABLISHED, _CLOSE_WAIT = 1, 8
# struct inet_diag_req_v2: family, protocol, extensions, padding, states; then inet_diag_sockid.
_REQUEST = struct.Struct("=BBBBI")
# struct inet_diag_sockid: both ports in network order, both addresses, interface; then the cookie.
_SOCKID = struct.Struct("!HH16s16sI")
_ID = slice(4, 52)
_INODE = slice(68, 72)
_WORD = sys.byteorder


@dataclass(frozen=True, slots=True)
class Connection:
    """One end of a connection: `port` and `peer_port`, and what names the socket. `inode` is 0 until it is accepted."""

    family: int
    port: int
    peer_port: int
    cookie: int
    inode: int
    addresses: tuple[bytes, bytes]
    """Own and peer's, packed in 16 bytes each."""
    id: bytes
    """As the kernel has it, cookie included."""

    def faces(self, other: "Connection") -> bool:
        """Whether the two are the ends of one connection within the namespace."""
        return (self.port, self.peer_port) == (other.peer_port, other.port) and _same(self.addresses, other.addresses)


class ConnectionList:
    """Lists connections of one namespace. Raises OSError when made."""

    def __init__(self, netns: Netns) -> None:
        with netns.entered():
            self._netlink = Netlink(_NETLINK_SOCK_DIAG)

    def of(self, port: int) -> list[Connection]:
        """Those whose own port this is. Raises OSError."""
        return list(self._dump(port, 0))

    def towards(self, port: int) -> list[Connection]:
        """Those whose peer's port this is. Raises OSError."""
        return list(self._dump(0, port))

    def reset(self, connections: Iterable[Connection]) -> int:
        """Reset them, as both ends see it; how many were still there. Raises OSError if the kernel cannot do that."""
        count = 0
        for one in connections:
            request = _REQUEST.pack(one.family, socket.IPPROTO_TCP, 0, 0, 0) + one.id
            try:
                self._netlink.command(_SOCK_DESTROY, request)
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise
            else:
                count += 1
        return count

    def close(self) -> None:
        """Release the netlink socket. Idempotent."""
        self._netlink.close()

    def _dump(self, port: int, peer_port: int) -> Iterator[Connection]:
        states = 1 << _ESTABLISHED | 1 << _CLOSE_WAIT
        wanted = _SOCKID.pack(port, peer_port, bytes(16), bytes(16), 0) + bytes(8)
        for family in (socket.AF_INET, socket.AF_INET6):
            request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, states) + wanted
            for answer in self._netlink.dump(_SOCK_DIAG_BY_FAMILY, request):
                own, peer, source, destination, _ = _SOCKID.unpack_from(answer, _ID.start)
                if own != port and peer != peer_port:
                    continue  # a kernel that does not filter
                cookie = int.from_bytes(answer[_ID][-8:], _WORD)
                inode = int.from_bytes(answer[_INODE], _WORD)
                yield Connection(family, own, peer, cookie, inode, (source, destination), answer[_ID])


_MAPPED = bytes(10) + b"\xff\xff"


def _same(one: tuple[bytes, bytes], other: tuple[bytes, bytes]) -> bool:
    return (_plain(one[0]), _plain(one[1])) == (_plain(other[1]), _plain(other[0]))


def _plain(address: bytes) -> bytes:
    """IPv4 the same, whichever family the socket is of."""
    return address[12:] + bytes(12) if address.startswith(_MAPPED) else address
