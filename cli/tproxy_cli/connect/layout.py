"""What a host-wide connection looks like in the laptop's kernel: names, marks and rules. Pure.

    OUTPUT       -m set --match-set tproxy-lease4 dst                        -j tproxy-out
    tproxy-out   -m mark --mark OWN                                          -j RETURN
                 -p tcp, udp --dport 53 -m set --match-set tproxy-dns4 dst   -j MARK --set-xmark CAUGHT
                 -m addrtype --dst-type LOCAL                                -j RETURN
                 -p tcp, udp -m set --match-set tproxy-net4 dst              -j MARK --set-xmark CAUGHT
    ip rule      fwmark CAUGHT lookup 4770        ip route    local default dev lo table 4770
    PREROUTING   -i lo -m mark --mark CAUGHT                                 -j tproxy-in
    tproxy-in    -p tcp, udp                                                 -j TPROXY --on-port OURS

The rules never change: which addresses are caught is the content of the sets. `tproxy-lease` holds every address there
is, for three seconds: while nobody renews that, no packet is looked at any further.
"""

import ipaddress
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

PREFIX = "tproxy-"
OUT, IN = "tproxy-out", "tproxy-in"

MASK = 0x0F000000
"""Bits that neither kube-proxy, Cilium, Istio, Tailscale nor wg-quick use (0xc000, 0xf00, 0x539, 0xff0000, 0xca6c)."""

CAUGHT = 0x01000000
OWN = 0x02000000
TABLE = 4770
PRIORITY = 4770
"""Before the rules of VPNs (Tailscale from 5210, wg-quick from 32764), after the local table."""

LEASE_SECONDS = 3
DNS_PORT = 53


@dataclass(frozen=True, slots=True)
class Family:
    """What differs between IPv4 and IPv6; `halves` are all addresses, as sets cannot hold a prefix of no length."""

    number: socket.AddressFamily
    digit: str
    loopback: str
    halves: tuple[Network, Network]

    @property
    def lease(self) -> str:
        """The set with everything in it, for a while."""
        return f"{PREFIX}lease{self.digit}"

    @property
    def networks(self) -> str:
        """The set of what is caught."""
        return f"{PREFIX}net{self.digit}"

    @property
    def dns(self) -> str:
        """The set of resolvers whose port 53 is caught."""
        return f"{PREFIX}dns{self.digit}"

    @property
    def sets(self) -> tuple[str, str, str]:
        """All three."""
        return self.lease, self.networks, self.dns


def _halves(text: str) -> tuple[Network, Network]:
    first, second = ipaddress.ip_network(text).subnets()
    return first, second


IP4 = Family(socket.AF_INET, "4", "127.0.0.1", _halves("0.0.0.0/0"))
IP6 = Family(socket.AF_INET6, "6", "::1", _halves("::/0"))
FAMILIES = (IP4, IP6)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a chain: everything it asks for, and its target. `mark` is matched, `set_mark` is set."""

    target: str
    protocol: str = ""
    interface: str = ""
    port: int = 0
    match_set: str = ""
    local: bool = False
    mark: int = 0
    set_mark: int = 0
    on_port: int = 0


def jumps(family: Family) -> Sequence[tuple[str, Rule]]:
    """The rules that lead into our chains, each at the head of its own."""
    return (
        ("OUTPUT", Rule(OUT, match_set=family.lease)),
        ("PREROUTING", Rule(IN, interface="lo", mark=CAUGHT)),
    )


def chains(family: Family, tcp: int, udp: int) -> Iterator[tuple[str, Sequence[Rule]]]:
    """Our chains; `tcp` and `udp` are the ports of our sockets."""
    both = ("tcp", "udp")
    yield (
        OUT,
        (
            Rule("RETURN", mark=OWN),
            *(Rule("MARK", protocol=one, port=DNS_PORT, match_set=family.dns, set_mark=CAUGHT) for one in both),
            Rule("RETURN", local=True),
            *(Rule("MARK", protocol=one, match_set=family.networks, set_mark=CAUGHT) for one in both),
        ),
    )
    yield IN, tuple(Rule("TPROXY", protocol=one, on_port=port) for one, port in zip(both, (tcp, udp), strict=True))


def split(networks: Sequence[Network]) -> list[Network]:
    """`networks` as a set can hold them: without prefixes of no length."""
    return [part for network in networks for part in (network.subnets() if not network.prefixlen else (network,))]
