"""What a host-wide connection looks like in the laptop's kernel: names, marks and rules. Pure.

    OUTPUT       -m set --match-set tproxy-lease4 dst                        -j tproxy-out
    tproxy-out   -m mark --mark OWN                                          -j RETURN
                 -p tcp, udp --dport 53 -m set --match-set tproxy-dns4 dst   -j MARK --set-xmark CAUGHT
                 -m addrtype --dst-type LOCAL                                -j RETURN
                 -p tcp, udp -m set --match-set tproxy-net4 dst              -j MARK --set-xmark CAUGHT
    ip rule      fwmark CAUGHT lookup 4770        ip route    local default dev lo table 4770
    PREROUTING   -i lo -m mark --mark CAUGHT, whatever the verdict           -j tproxy-in
    tproxy-in    -p tcp -m mark --mark OPEN                                  -j TPROXY --on-port OURS
                 -p tcp --syn -m mark --mark CAUGHT                          -j NFQUEUE: comes through here again, with
                                                                                a verdict for mark
                 -p udp                                                      -j TPROXY --on-port OURS
    INPUT        the same as PREROUTING                                      -j tproxy-end
    tproxy-end   -p tcp -m mark --mark REFUSED, UNREACHABLE, FORBIDDEN       -j REJECT

A connection is thus accepted when its far end has accepted it, and refused when that refuses. Where the kernel has no
queue it is accepted at once, and reset when the far end cannot be had.

The rules never change: which addresses are caught is the content of the sets. `tproxy-lease` holds every address there
is, for three seconds: while nobody renews that, no packet is looked at any further.
"""

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

PREFIX = "tproxy-"
OUT, IN, END = "tproxy-out", "tproxy-in", "tproxy-end"

MASK = 0x0F000000
"""Bits that neither kube-proxy, Cilium, Istio, Tailscale nor wg-quick use (0xc000, 0xf00, 0x539, 0xff0000, 0xca6c)."""

CAUGHT = 0x01000000
OWN = 0x02000000
ANY_CAUGHT = 0x01000000
"""The bit that `CAUGHT` and every verdict have."""

VERDICTS = {"open": 0x05000000, "refused": 0x09000000, "unreachable": 0x0B000000, "forbidden": 0x0D000000}
QUEUE = 4770
TABLE = 4770
PRIORITY = 4770
"""Before the rules of VPNs (Tailscale from 5210, wg-quick from 32764), after the local table."""

NAME = "\0tproxy-connect"
"""An abstract unix address, of which a network namespace has its own: who holds it is the one connection there is."""

LEASE_SECONDS = 3
DNS_PORT = 53


@dataclass(frozen=True, slots=True)
class Family:
    """What differs between IPv4 and IPv6; `halves` are all addresses, as sets cannot hold a prefix of no length."""

    number: socket.AddressFamily
    digit: str
    loopback: str
    halves: tuple[Network, Network]
    unreachable: str
    forbidden: str

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


# The kernel sends no ICMP over IPv4 in the name of an address that is not the machine's own.
IP4 = Family(socket.AF_INET, "4", "127.0.0.1", _halves("0.0.0.0/0"), "tcp-reset", "tcp-reset")
IP6 = Family(socket.AF_INET6, "6", "::1", _halves("::/0"), "icmp6-addr-unreachable", "icmp6-adm-prohibited")
FAMILIES = (IP4, IP6)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a chain: all it asks for, and its target. `mark` is matched under `mask`, `set_mark` is set."""

    target: str
    protocol: str = ""
    interface: str = ""
    port: int = 0
    syn: bool | None = None
    match_set: str = ""
    local: bool = False
    mark: int = 0
    mask: int = MASK
    set_mark: int = 0
    on_port: int = 0
    reject_with: str = ""


@dataclass(frozen=True, slots=True)
class Chain:
    """One of our chains in a table, the rule at the head of `hook` that leads into it, and its rules."""

    table: str
    hook: str
    jump: Rule
    rules: Sequence[Rule]

    @property
    def name(self) -> str:
        """What it is called."""
        return self.jump.target


def chains(family: Family, tcp: int = 0, udp: int = 0, ask: bool = True) -> Sequence[Chain]:
    """All of them; `tcp` and `udp` are the ports of our sockets. With `ask` SYNs wait for a verdict."""
    both = ("tcp", "udp")
    out = (
        Rule("RETURN", mark=OWN),
        *(Rule("MARK", protocol=one, port=DNS_PORT, match_set=family.dns, set_mark=CAUGHT) for one in both),
        Rule("RETURN", local=True),
        *(Rule("MARK", protocol=one, match_set=family.networks, set_mark=CAUGHT) for one in both),
    )
    asked = (
        Rule("TPROXY", protocol="tcp", mark=VERDICTS["open"], on_port=tcp),
        Rule("NFQUEUE", protocol="tcp", syn=True, mark=CAUGHT),
    )
    at_once = (Rule("TPROXY", protocol="tcp", on_port=tcp),)
    comes_in = (*(asked if ask else at_once), Rule("TPROXY", protocol="udp", on_port=udp))
    answers = {"refused": "tcp-reset", "unreachable": family.unreachable, "forbidden": family.forbidden}
    ends = tuple(Rule("REJECT", protocol="tcp", mark=VERDICTS[name], reject_with=how) for name, how in answers.items())
    caught = Rule("", interface="lo", mark=CAUGHT, mask=ANY_CAUGHT)
    return (
        Chain("mangle", "OUTPUT", Rule(OUT, match_set=family.lease), out),
        Chain("mangle", "PREROUTING", replace(caught, target=IN), comes_in),
        Chain("filter", "INPUT", replace(caught, target=END), ends if ask else ()),
    )


def split(networks: Sequence[Network]) -> list[Network]:
    """`networks` as a set can hold them: without prefixes of no length."""
    return [part for network in networks for part in (network.subnets() if not network.prefixlen else (network,))]
