"""Whom on the laptop the cluster's addresses get in the way of: routes to networks that hold some of them."""

import contextlib
import ipaddress
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tproxy.netns.netlink import Netlink, attributes
from tproxy_cli.connect.layout import TABLE, Network

_NETLINK_ROUTE = 0
_GETROUTE = 26
_RTMSG = struct.Struct("=BBBBBBBBI")
_DST, _OIF, _TABLE = 1, 4, 15
_UNICAST = 1
_KINDS = (
    (("tun", "tap", "wg", "ppp", "utun", "nordlynx", "tailscale", "zt", "cscotun", "gpd", "ipsec"), "a VPN"),
    (("docker", "br-"), "Docker"),
    (("virbr",), "libvirt"),
    (("podman", "cni"), "containers"),
)


@dataclass(frozen=True, slots=True)
class Conflict:
    """A route of the laptop's, on `link`, to a `network` of which the cluster uses `count` addresses too."""

    network: str
    link: str
    owner: str
    count: int

    def __str__(self) -> str:
        what = f"{self.owner} (`{self.link}`)" if self.owner else f"`{self.link}`"
        count, verb = ("1 address", "that leads") if self.count == 1 else (f"{self.count} addresses", "those lead")
        return (
            f"{what} has a route to {self.network}, where the cluster has {count} in use: "
            f"{verb} into the cluster now, all others where they did"
        )

    @property
    def remedy(self) -> str:
        """What to do about it."""
        return f"if you need the laptop's: `tproxy disconnect`, then `tproxy connect --never-proxy {self.network}`"


def find(addresses: Iterable[str]) -> list[Conflict]:
    """Routes other than default ones that `addresses` would have taken. Blocks for a moment; raises OSError."""
    routes = list(_routes())
    counts: dict[tuple[str, str], int] = {}
    for address in addresses:
        one = ipaddress.ip_address(address)
        held = [(network, link) for network, link in routes if one in network]
        if held:
            network, link = max(held, key=lambda route: route[0].prefixlen)
            counts[str(network), link] = counts.get((str(network), link), 0) + 1
    return [Conflict(network, link, _owner(link), count) for (network, link), count in sorted(counts.items())]


def _routes() -> Iterator[tuple[Network, str]]:
    with contextlib.closing(Netlink(_NETLINK_ROUTE)) as kernel:
        for answer in kernel.dump(_GETROUTE, _RTMSG.pack(socket.AF_UNSPEC, *bytes(7), 0)):
            _, length, _, _, _, _, _, kind, _ = _RTMSG.unpack_from(answer)
            values = dict(attributes(answer[_RTMSG.size :]))
            table = int.from_bytes(values.get(_TABLE, b""), "little")
            if kind != _UNICAST or not length or _DST not in values or _OIF not in values or table == TABLE:
                continue
            network = ipaddress.ip_network((values[_DST], length))
            if network.is_link_local or network.is_multicast:
                continue
            with contextlib.suppress(OSError):
                yield network, socket.if_indextoname(int.from_bytes(values[_OIF], "little"))


def _owner(link: str) -> str:
    return next((owner for prefixes, owner in _KINDS if link.startswith(prefixes)), "")
