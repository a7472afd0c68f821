"""One connection on its way through the tunnel, as both ends speak of it."""

import enum
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Address:
    """A numeric IP address (no zone, no brackets) or, for dialling, a name; and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


RESOLVERS = Address("resolvers", 53)
"""The destination of what goes to whatever resolvers the pod has."""


NOWHERE = Address("", 0)
"""The destination of READ and ASK, which go to no address."""


class FlowKind(enum.Enum):
    """Which way a connection crosses the tunnel."""

    INBOUND = "inbound"  # a client of the pod, opened by the node, served by the laptop
    DIAL = "dial"  # opened by the laptop, dialled by the node
    READ = "read"  # opened by the laptop, answered by the node with what a container was given
    ASK = "ask"  # opened by the laptop, answered by the node with what it knows of itself


class ResetReason(enum.Enum):
    """Why a connection ended without a FIN; the receiver turns it into what its own client would have seen."""

    RESET = "reset"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    TIMED_OUT = "timed-out"
    NO_SUCH_HOST = "no-such-host"
    DENIED = "denied"  # by policy, or for an intercept that the laptop did not create
    LIMIT = "limit"
    TUNNEL_LOST = "tunnel-lost"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """What the opening side says of a new connection.

    `source` is the real client, `destination` the address it meant. `intercept` is the UID of the Intercept the
    connection is steered by and `pod` is `namespace/name`; both are empty for DIAL without a target, which then leaves
    from any running pod of the Session's namespace on the node.

    `protocol` of DIAL: `tcp`; `udp`, where each DATAGRAM is one of the flow; `dns`, where each is a DNS message for the
    pod's resolvers or an answer of theirs; `resolv.conf`, where the node sends that file's text and FIN. The last two
    go to `RESOLVERS`.

    `protocol` of READ: `environ` or `files`, of `container` of `pod`; the node answers with records
    (`tproxy.env.records`).

    `protocol` of ASK: the question's name; its arguments follow, and the answer (`tproxy.debug.answer`).
    """

    kind: FlowKind
    destination: Address
    source: Address | None = None
    intercept: str = ""
    pod: str = ""
    protocol: str = "tcp"
    container: str = ""
