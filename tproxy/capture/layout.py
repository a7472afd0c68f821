"""What a namespace whose traffic is caught looks like: addresses, ports, marks, and the rules between them. Pure.

Every address is local in there: a route of type local for everything leads to `lo`, so that a packet to anywhere comes
in again and passes PREROUTING. That needs neither policy routing nor a mark on the way out, and the kernel itself
answers for an address that is nobody's. The rules then say what becomes of a packet:

    what our own sockets send (OWN mark), to our own addresses, multicast     goes on
    TCP that is no SYN                                                        goes on: its connection knows where
    to a loopback address with somebody listening in here                     goes on
    a SYN that nobody has decided about                                       waits in the queue for a verdict, a mark
    a SYN with the verdict OPEN                                               TPROXY: to our listener
    a SYN with another verdict                                                is refused, in INPUT
    UDP                                                                       TPROXY: to our socket
    anything else                                                             is dropped

A connection is thus accepted when its far end has accepted it, and refused when that refuses.
"""

import enum
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

RELAY_PORT = 1
"""Of our listener and of our UDP socket; below what CMD could want by accident."""

DNS_PORT = 53
QUEUE = 1
"""The number of the queue for SYNs without a verdict."""


class Mark(enum.IntEnum):
    """Packet marks, which mean something in this namespace only; it is ours alone."""

    OPEN = 0x1  # the verdicts: the far end has accepted,
    REFUSED = 0x2  # has refused,
    UNREACHABLE = 0x3  # cannot be reached,
    FORBIDDEN = 0x4  # must not be reached
    OWN = 0x80  # what our own sockets send


@dataclass(frozen=True, slots=True)
class Family:
    """What differs between IPv4 and IPv6. `own` holds `host`, the source of all that is sent, and `relay`."""

    number: socket.AddressFamily
    host: str
    relay: str
    own: str
    loopback: str
    everything: str
    multicast: str
    unreachable: str
    forbidden: str


# 192.0.0.8 is the IPv4 dummy address (RFC 7600): as a source it is fine, as a destination it never was anybody's.
# The other one is of the same block for protocols (RFC 6890), unassigned.
IP4 = Family(
    number=socket.AF_INET,
    host="192.0.0.8",
    relay="192.0.0.53",
    own="192.0.0.0/26",
    loopback="127.0.0.0/8",
    everything="0.0.0.0/0",
    multicast="224.0.0.0/4",
    unreachable="icmp-host-unreachable",
    forbidden="icmp-admin-prohibited",
)
# A unique local address (RFC 4193): to destinations beyond such addresses resolvers then prefer IPv4 (RFC 6724), which
# is what a laptop without IPv6 needs.
IP6 = Family(
    number=socket.AF_INET6,
    host="fd74:7072:6f78:79::8",
    relay="fd74:7072:6f78:79::53",
    own="fd74:7072:6f78:79::/64",
    loopback="::1/128",
    everything="::/0",
    multicast="ff00::/8",
    unreachable="icmp6-addr-unreachable",
    forbidden="icmp6-adm-prohibited",
)
FAMILIES = (IP4, IP6)


class Action(enum.Enum):
    """What a rule does with a packet."""

    PASS = "pass"  # noqa: S105
    ASK = "ask"
    CATCH = "catch"
    DROP = "drop"
    REFUSE = "refuse"
    UNREACHABLE = "unreachable"
    FORBID = "forbid"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: what a packet must be, all of it, and what then happens.

    `network` is the destination's, `beyond` one that it must not be in. `syn` says whether it must or must not open a
    connection. `served` asks that a socket in this namespace would take it.
    """

    action: Action
    protocol: str = ""
    network: str = ""
    beyond: str = ""
    mark: Mark | None = None
    syn: bool | None = None
    served: bool = False


def prerouting(family: Family, ask: bool = True) -> Sequence[Rule]:
    """The rules for what comes in, in order. Without `ask` connections are caught before anyone is asked."""
    return [
        Rule(Action.PASS, mark=Mark.OWN),
        Rule(Action.PASS, network=family.own),
        Rule(Action.PASS, network=family.multicast),
        Rule(Action.PASS, protocol="tcp", syn=False),
        Rule(Action.PASS, network=family.loopback, served=True),
        *(
            (
                Rule(Action.CATCH, protocol="tcp", mark=Mark.OPEN),
                *(Rule(Action.PASS, protocol="tcp", mark=mark) for mark in _REJECTING),
                Rule(Action.ASK, protocol="tcp"),
            )
            if ask
            else (Rule(Action.CATCH, protocol="tcp"),)
        ),
        Rule(Action.CATCH, protocol="udp"),
        Rule(Action.DROP, beyond=family.loopback),
    ]


def input_(family: Family) -> Iterator[Rule]:
    """The rules for what is delivered: those with a verdict other than OPEN are not."""
    return (Rule(action, protocol="tcp", mark=mark) for mark, action in _REJECTING.items())


_REJECTING = {
    Mark.REFUSED: Action.REFUSE,
    Mark.UNREACHABLE: Action.UNREACHABLE,
    Mark.FORBIDDEN: Action.FORBID,
}
