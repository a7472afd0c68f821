"""What a laptop may dial from a pod of its Session's namespace. Pure.

The rules forbid what would reach further than a person with a Session is meant to: the node and its services, cloud
metadata, the API server. Everything else is left to what governs the pod itself: NetworkPolicy, routes, meshes.
"""

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

DNS_PORT = 53


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


DENIED: tuple[tuple[str, tuple[Network, ...]], ...] = (
    ("unspecified", _networks("0.0.0.0/8", "::/128")),
    ("loopback", _networks("127.0.0.0/8", "::1/128")),
    # Link-local ones of AWS, Azure, GCP and others are denied with their network; these are not link-local.
    (
        "metadata",
        _networks(
            "169.254.169.254/32",  # nearly everybody
            "169.254.170.2/32",  # AWS ECS credentials
            "fd00:ec2::/32",  # AWS
            "fd20:ce::254/128",  # GCP
            "100.100.100.200/32",  # Alibaba
            "168.63.129.16/32",  # Azure's wire server
            "192.0.0.192/32",  # Oracle
        ),
    ),
    ("link-local", _networks("169.254.0.0/16", "fe80::/10")),
    ("multicast", _networks("224.0.0.0/4", "ff00::/8")),
    ("broadcast", _networks("240.0.0.0/4")),
)
"""Names of policies and what they deny to everyone; the first that matches is named."""

NODE, API_SERVER = "node", "api-server"
POLICIES = (*(name for name, _ in DENIED), NODE, API_SERVER)
"""Every name that a refusal may carry. The last two depend on the cluster."""

# IPv6 networks whose addresses carry an IPv4 address, and by how many bits it is shifted.
_EMBEDDING = (
    (ipaddress.IPv6Network("::ffff:0:0/96"), 0),  # IPv4-mapped, RFC 4291 section 2.5.5.2
    (ipaddress.IPv6Network("::/96"), 0),  # IPv4-compatible, section 2.5.5.1
    (ipaddress.IPv6Network("::ffff:0:0:0/96"), 0),  # IPv4-translated, RFC 2765 section 2.1
    (ipaddress.IPv6Network("64:ff9b::/96"), 0),  # NAT64, RFC 6052 section 2.1
    (ipaddress.IPv6Network("64:ff9b:1::/48"), 0),  # NAT64 of one's own, RFC 8215, with /96 prefixes
    (ipaddress.IPv6Network("2002::/16"), 80),  # 6to4, RFC 3056 section 2
)


@dataclass(frozen=True, slots=True)
class Where:
    """What the rules depend on: the addresses of all nodes, and those of the API server."""

    nodes: frozenset[IPAddress] = frozenset()
    api_server: frozenset[IPAddress] = frozenset()


@dataclass(frozen=True, slots=True)
class DialPolicy:
    """`allowed` are networks that an administrator allows although a rule denies them, `allow_nodes` lifts the rule on
    node addresses alone (not on the API server, which may be at one of them)."""

    allowed: tuple[Network, ...] = ()
    allow_nodes: bool = False

    def denies(self, address: IPAddress, port: int, where: Where, resolvers: frozenset[IPAddress]) -> str:
        """The name of the rule that denies `address`, or an empty string. `resolvers` are those of the pod that the
        connection leaves from: at port 53 it may reach them wherever they are.

        Every form in which an IPv6 address may carry an IPv4 one counts as that too.
        """
        meant = list(_meant(address))
        if port == DNS_PORT and not resolvers.isdisjoint(meant):
            return ""
        for one in meant:
            if any(one in network for network in self.allowed):
                continue
            for name, networks in DENIED:
                if any(one in network for network in networks):
                    return name
            if one in where.api_server:
                return API_SERVER
            if one in where.nodes and not self.allow_nodes:
                return NODE
        return ""


def plain(text: str) -> IPAddress | None:
    """The numeric address `text` as it is dialled: IPv4 for an IPv4-mapped one, without a zone. None for a name.

    Forms that only C libraries take for addresses (`127.1`, `0x7f000001`, `2130706433`) are names here, and names are
    looked up in DNS alone.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.scope_id is not None:
            return ipaddress.IPv6Address(int(address))
    return address


def _meant(address: IPAddress) -> Iterator[IPAddress]:
    """`address`, and the IPv4 address it carries if it does."""
    if isinstance(address, ipaddress.IPv6Address):
        address = ipaddress.IPv6Address(int(address))  # without its zone
        yield address
        # :: and ::1 are no IPv4 addresses.
        if int(address) > 1:
            for network, shift in _EMBEDDING:
                if address in network:
                    yield ipaddress.IPv4Address(int(address) >> shift & 0xFFFFFFFF)
    else:
        yield address
