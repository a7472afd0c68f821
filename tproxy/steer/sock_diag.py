"""Handshakes in progress and listening sockets of a network namespace, as the kernel's socket diagnosis lists them."""

import contextlib
import ipaddress
import socket
import struct
import sys
from collections.abc import Container, Iterator
from dataclasses import dataclass

from tproxy.netns.handle import Netns
from tproxy.netns.netlink import Netlink

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_SYN_RECV = 3
_LISTEN = 10
# struct inet_diag_req_v2: family, protocol, extensions, padding, states; then an empty inet_diag_sockid.
_REQUEST = struct.Struct("=BBBBI48x")
# struct inet_diag_msg begins with family, state, timer, retransmissions; then its inet_diag_sockid: both ports in
# network order, both addresses, interface.
_ID = slice(4, 44)
_LOCAL_PORT = slice(4, 6)
_LOCAL_ADDRESS = {socket.AF_INET: slice(8, 12), socket.AF_INET6: slice(8, 24)}
_COOKIE = slice(44, 52)
# The last words of inet_diag_msg: what is queued and how much may be, the user, the inode.
_QUEUE, _LIMIT, _INODE = slice(56, 60), slice(60, 64), slice(68, 72)

Handshake = bytes
"""What tells one handshake from another: ports, addresses and interface."""


class HandshakeList:
    """Lists the TCP handshakes of one namespace that wait for the client's last packet."""

    def __init__(self, netns: Netns) -> None:
        with netns.entered():
            self._netlink = Netlink(_NETLINK_SOCK_DIAG)

    def towards(self, ports: Container[int]) -> frozenset[Handshake]:
        """Those towards one of `ports` (as the client sees it), whichever listener they belong to. Raises OSError."""
        found = set()
        for family in (socket.AF_INET, socket.AF_INET6):
            request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, 1 << _SYN_RECV)
            for answer in self._netlink.dump(_SOCK_DIAG_BY_FAMILY, request):
                if int.from_bytes(answer[_LOCAL_PORT], "big") in ports:
                    found.add(answer[_ID])
        return frozenset(found)

    def close(self) -> None:
        """Release the netlink socket. Idempotent."""
        self._netlink.close()


@dataclass(frozen=True, slots=True)
class Listening:
    """A listening socket: `queue` connections wait to be accepted, of `limit` at most."""

    host: str
    port: int
    queue: int
    limit: int
    inode: int
    cookie: int

    @property
    def overflowing(self) -> bool:
        """Whether no further connection fits, so that the kernel drops what comes."""
        return self.queue > self.limit


def listening(netns: Netns) -> list[Listening]:
    """All listening TCP sockets of a namespace. Raises OSError."""
    with netns.entered():
        netlink = Netlink(_NETLINK_SOCK_DIAG)
    found = []
    with contextlib.closing(netlink):
        for family, address in _LOCAL_ADDRESS.items():
            request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, 1 << _LISTEN)
            for answer in netlink.dump(_SOCK_DIAG_BY_FAMILY, request):
                numbers = (int.from_bytes(answer[part], sys.byteorder) for part in (_QUEUE, _LIMIT, _INODE, _COOKIE))
                host = str(ipaddress.ip_address(answer[address]))
                found.append(Listening(host, int.from_bytes(answer[_LOCAL_PORT], "big"), *numbers))
    return found


def overflows(netns: Netns) -> int:
    """How often a connection did not fit into an accept queue in this namespace, since it was made. Raises OSError."""
    with netns.entered(), open("/proc/thread-self/net/netstat") as file:
        lines = [line.split() for line in file]
    for names, values in zip(lines[::2], lines[1::2], strict=False):
        if names[0] == "TcpExt:":
            return int(dict(zip(names, values, strict=False)).get("ListenOverflows", 0))
    return 0


class ListenerList:
    """Lists the listening TCP sockets of one namespace."""

    def __init__(self, netns: Netns) -> None:
        with netns.entered():
            self._netlink = Netlink(_NETLINK_SOCK_DIAG)

    def ports(self, without: Container[int]) -> frozenset[int]:
        """Ports on which somebody listens for connections from outside the namespace. Raises OSError.

        Not counted: sockets whose inodes are in `without`, and those bound to a loopback address.
        """
        return frozenset(
            port
            for host, port, inode in self._all()
            if inode not in without and not ipaddress.ip_address(host).is_loopback
        )

    def of(self, port: int) -> frozenset[int]:
        """The inodes of those that listen on this port, at whatever address. Raises OSError."""
        return frozenset(inode for _, one, inode in self._all() if one == port)

    def _all(self) -> Iterator[tuple[bytes, int, int]]:
        """Address, port and inode."""
        for family, address in _LOCAL_ADDRESS.items():
            request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, 1 << _LISTEN)
            for answer in self._netlink.dump(_SOCK_DIAG_BY_FAMILY, request):
                inode = int.from_bytes(answer[_INODE], sys.byteorder)
                yield answer[address], int.from_bytes(answer[_LOCAL_PORT], "big"), inode

    def close(self) -> None:
        """Release the netlink socket. Idempotent."""
        self._netlink.close()
