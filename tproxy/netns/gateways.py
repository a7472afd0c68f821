"""Where a network namespace sends what is for elsewhere: the gateways of its default routes."""

import contextlib
import ipaddress
import socket
import struct

from tproxy.netns.addresses import IPAddress
from tproxy.netns.handle import Netns
from tproxy.netns.netlink import Netlink, attributes

_NETLINK_ROUTE = 0
_RTM_GETROUTE = 26
# struct rtmsg: family, destination and source prefix lengths, TOS, table, protocol, scope, type; flags.
_RTMSG = struct.Struct("=BBBBBBBBI")
_RTA_GATEWAY = 5


def gateways_of(netns: Netns) -> frozenset[IPAddress]:
    """The gateway of each default route, of both address families. Raises OSError."""
    with netns.entered():
        netlink = Netlink(_NETLINK_ROUTE)
    with contextlib.closing(netlink):
        return frozenset(
            gateway
            for answer in netlink.dump(_RTM_GETROUTE, _RTMSG.pack(socket.AF_UNSPEC, *bytes(7), 0))
            if (gateway := _gateway(answer)) is not None
        )


def _gateway(answer: bytes) -> IPAddress | None:
    _, prefix_length, *_ = _RTMSG.unpack_from(answer)
    packed = dict(attributes(answer[_RTMSG.size :])).get(_RTA_GATEWAY)
    return None if prefix_length or packed is None else ipaddress.ip_address(packed)
