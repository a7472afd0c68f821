"""Who gets a port of a pod when several intercepts want it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from tproxy.model.intercept import Intercept, InterceptPort
from tproxy.model.session import Session

_NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Claim:
    """An intercept that wants ports of one pod.

    `live`: its Session has a stream to this node. `holding`: it is the one steered now.
    """

    intercept: Intercept
    session: Session
    live: bool
    holding: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """`winners` by port; `losers` by intercept UID: the ports it did not get, and the claim that has each."""

    winners: Mapping[InterceptPort, Claim]
    losers: Mapping[str, Mapping[InterceptPort, Claim]]


def decide(claims: Iterable[Claim]) -> Decision:
    """Settle the claims on one pod; the answer does not depend on their order.

    Of the global claims on one port a holder whose stream is live stays, so that nobody's traffic is taken away;
    else live goes before dead, else the older, else the lower UID. Claims with a match are not considered.
    """
    winners: dict[InterceptPort, Claim] = {}
    losers: dict[str, dict[InterceptPort, Claim]] = {}
    for claim in sorted(claims, key=_rank):
        if claim.intercept.match is not None:
            continue
        for port in claim.intercept.ports:
            winner = winners.setdefault(port, claim)
            if winner.intercept.uid != claim.intercept.uid:
                losers.setdefault(claim.intercept.uid, {})[port] = winner
    return Decision(winners, losers)


def _rank(claim: Claim) -> tuple[bool, bool, datetime, str]:
    intercept = claim.intercept
    return (not (claim.live and claim.holding), not claim.live, intercept.created or _NEVER, intercept.uid)
