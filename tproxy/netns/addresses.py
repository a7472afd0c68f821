"""The IP addresses that a network namespace's interfaces hold."""

import contextlib
import ipaddress
import socket
import struct

from tproxy.netns.handle import Netns
from tproxy.netns.netlink import Netlink, attributes

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_NETLINK_ROUTE = 0
_RTM_GETADDR = 22
_IFADDRMSG = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, interface
_IFA_ADDRESS = 1
_IFA_LOCAL = 2


def addresses_of(netns: Netns, without_link: str = "") -> frozenset[IPAddress]:
    """Every address of every interface in `netns`, loopback included, but for one named `without_link`.

    Raises OSError.
    """
    left_out = 0
    with netns.entered():
        netlink = Netlink(_NETLINK_ROUTE)
        if without_link:
            with contextlib.suppress(OSError):
                left_out = socket.if_nametoindex(without_link)
    with contextlib.closing(netlink):
        return frozenset(
            address
            for answer in netlink.dump(_RTM_GETADDR, _IFADDRMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0))
            if (address := _address(answer)) is not None and (not left_out or _link(answer) != left_out)
        )


def _link(answer: bytes) -> int:
    return int(_IFADDRMSG.unpack_from(answer)[4])


def _address(answer: bytes) -> IPAddress | None:
    values = dict(attributes(answer[_IFADDRMSG.size :]))
    # On a point-to-point link ADDRESS is the peer's and LOCAL ours; IPv6 has LOCAL only there.
    packed = values.get(_IFA_LOCAL) or values.get(_IFA_ADDRESS)
    return None if packed is None else ipaddress.ip_address(packed)
