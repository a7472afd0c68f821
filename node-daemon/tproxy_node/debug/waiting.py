"""What an open connection waits for, and for how long. Pure.

An idle connection waits for nothing: what its client has said was answered, and nothing is queued.
"""

from dataclasses import dataclass

from tproxy.steer.tcp_info import Carried

SILENT_SECONDS = 3.0
"""A live tunnel is heard every 2 s."""

UNANSWERED_SECONDS = 1.0
"""An answer that takes longer is worth showing."""


@dataclass(frozen=True, slots=True)
class InTunnel:
    """A connection's half in the tunnel: whether the laptop has opened its own, bytes that wait here and that it is
    ready to receive, and the seconds since the laptop was last heard, whatever it said."""

    opened: bool
    queued: int
    credit: int
    quiet: float


@dataclass(frozen=True, slots=True)
class Waiting:
    """`what` is

        laptop      which has said nothing for `seconds`, or has not opened its connection within them
        tunnel      bytes are queued that the laptop is ready for
        local-app   bytes are queued that the local app does not read
        answer      the client spoke last, `seconds` ago

    `seconds` is None where nobody counts them.
    """

    what: str
    seconds: float | None = None


def waits_for(age: float, carried: Carried | None, tunnel: InTunnel | None) -> Waiting | None:
    """What a connection of `age` seconds waits for; None if it does not."""
    unanswered = carried.unanswered if carried is not None else None
    if tunnel is not None:
        if tunnel.quiet >= SILENT_SECONDS and (not tunnel.opened or tunnel.queued or unanswered is not None):
            return Waiting("laptop", tunnel.quiet)
        if not tunnel.opened:
            return Waiting("laptop", age)
        if tunnel.queued:
            return Waiting("tunnel" if tunnel.credit else "local-app")
    if unanswered is not None and unanswered >= UNANSWERED_SECONDS:
        return Waiting("answer", unanswered)
    return None
