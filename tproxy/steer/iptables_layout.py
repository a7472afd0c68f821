"""What steering by TPROXY looks like in a pod's namespace: names of chain and sets, and the mark of our own sockets.

    PREROUTING    -p tcp --syn                                                   -j tproxy-ID
    tproxy-ID     -m mark --mark OWN -m set --match-set tproxy-ID-own dst        -j RETURN
                  -m set --match-set tproxy-ID-passed4 src,dst                   -j RETURN
                  -m set --match-set tproxy-ID-lease dst
                                     -m set --match-set tproxy-ID-steered dst    -j TPROXY --on-port LISTENER
                  -m set --match-set tproxy-ID-late dst                          -j RETURN

The rules never change. Which ports are steered, and for how long, is the content of the four lists: each of them has a
member `tproxy-ID-PORT` for each port, those of `lease` with a timeout. The other three are there to count. The sets
`passed4` and `passed6` hold the sources that are let through, each with a port.

In a namespace in which what arrives is translated, as in pods of a mesh, the first rule is the last of PREROUTING and
has `-i lo`: see `translated`.

Where UDP is steered too it has a chain and sets of its own, named `tproxyu-ID`, and no need of the first two rules:

    PREROUTING    -p udp                                                         -j tproxyu-ID
"""

import secrets
import socket
from dataclasses import dataclass

PREFIX = "tproxy-"
UDP_PREFIX = "tproxyu-"

LOOPBACK_LINK = "lo"
OWN_MARK = 0x77
OWN_MASK = 0xFF
"""The socket mark of our own connections to the app: bits that no mesh, CNI plugin or kube-proxy is known to use."""


@dataclass(frozen=True, slots=True)
class Names:
    """The kernel objects of one attachment; `chain` names them all, and no two attachments have the same."""

    chain: str

    @classmethod
    def new(cls, udp: bool = False) -> "Names":
        """Of a new attachment."""
        return cls((UDP_PREFIX if udp else PREFIX) + secrets.token_hex(4))

    @property
    def udp(self) -> bool:
        """Whether it is about UDP rather than TCP."""
        return self.chain.startswith(UDP_PREFIX)

    @property
    def counting(self) -> tuple[str, ...]:
        """The lists without timeouts."""
        return (self.steered, self.late) if self.udp else (self.own, self.late, self.steered)

    @property
    def lease(self) -> str:
        """The ports steered until their timeout."""
        return f"{self.chain}-lease"

    @property
    def steered(self) -> str:
        """Counts connections that we get."""
        return f"{self.chain}-steered"

    @property
    def own(self) -> str:
        """Counts our own connections, which the app gets."""
        return f"{self.chain}-own"

    @property
    def late(self) -> str:
        """Counts connections that the app gets because the lease has run out."""
        return f"{self.chain}-late"

    def passed(self, family: int) -> str:
        """The sources of an address family that are let through to the app, and counts their connections."""
        return f"{self.chain}-passed{6 if family == socket.AF_INET6 else 4}"

    def port(self, port: int) -> str:
        """The set of one port."""
        return f"{self.chain}-{port}"


def owner(name: str) -> Names | None:
    """Whose a chain or a set is; None if it is none of ours."""
    if not name.startswith((PREFIX, UDP_PREFIX)):
        return None
    return Names("-".join(name.split("-")[:2]))


def replaced(older: Names, newer: Names) -> bool:
    """Whether an attachment takes an older one's place. One of UDP comes second, and leaves that of TCP alone."""
    return older.udp or not newer.udp
