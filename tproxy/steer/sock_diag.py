"""Handshakes in progress in a network namespace, as the kernel's socket diagnosis lists them."""

import socket
import struct
from collections.abc import Container

from tproxy.netns.handle import Netns
from tproxy.netns.netlink import Netlink

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_SYN_RECV = 3
# struct inet_diag_req_v2: family, protocol, extensions, padding, states; then an empty inet_diag_sockid.
_REQUEST = struct.Struct("=BBBBI48x")
# struct inet_diag_msg begins with family, state, timer, retransmissions; then its inet_diag_sockid: both ports in
# network order, both addresses, interface.
_ID = slice(4, 44)
_LOCAL_PORT = slice(4, 6)

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
