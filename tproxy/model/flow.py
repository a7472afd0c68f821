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


class FlowKind(enum.Enum):
    """Which way a connection crosses the tunnel."""

    INBOUND = "inbound"  # a client of the pod, opened by the node, served by the laptop
    DIAL = "dial"  # opened by the laptop, dialled by the node


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
    connection is steered by and `pod` is `namespace/name`; both are empty for DIAL without a target.
    """

    kind: FlowKind
    destination: Address
    source: Address | None = None
    intercept: str = ""
    pod: str = ""
    protocol: str = "tcp"
