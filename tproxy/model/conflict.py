"""Who gets a port of a pod when several intercepts want it.

One global intercept has whatever no personal one wants. Personal ones share a port as long as none of two is only about
requests that the other is about, too: then one of them would never see any. Of those that share, the one with more
conditions is asked first, then the older.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from tproxy.model.implication import implies
from tproxy.model.intercept import Intercept, InterceptPort
from tproxy.model.match import Match
from tproxy.model.session import Session

_NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Claim:
    """An intercept that wants ports of one pod.

    `live`: its Session has a stream to this node. `holding`: it is one of those steered now.
    """

    intercept: Intercept
    session: Session
    live: bool
    holding: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """`winners` by port, in the order in which a request is offered to them: a global one is last.

    `losers` by intercept UID: the ports that others have, and which claim has each. A loser has none of its ports.
    """

    winners: Mapping[InterceptPort, tuple[Claim, ...]]
    losers: Mapping[str, Mapping[InterceptPort, Claim]]


def decide(claims: Iterable[Claim]) -> Decision:
    """Settle the claims on one pod; the answer does not depend on their order.

    Of claims that exclude each other a holder whose stream is live stays, so that nobody's traffic is taken away; else
    live goes before dead, else the older, else the lower UID.
    """
    winners: dict[InterceptPort, list[Claim]] = {}
    losers: dict[str, dict[InterceptPort, Claim]] = {}
    for claim in sorted(claims, key=_rank):
        taken = {
            port: other
            for port in claim.intercept.ports
            for other in winners.get(port, ())
            if exclude(claim.intercept.match, other.intercept.match)
        }
        if taken:
            losers[claim.intercept.uid] = taken
            continue
        for port in claim.intercept.ports:
            winners.setdefault(port, []).append(claim)
    return Decision({port: tuple(sorted(won, key=_precedence)) for port, won in winners.items()}, losers)


def exclude(one: Match | None, other: Match | None) -> bool:
    """Whether two intercepts of a port cannot both be had: two global ones, or one's requests are all the other's."""
    if one is None or other is None:
        return one is other
    return implies(one, other) or implies(other, one)


def _rank(claim: Claim) -> tuple[bool, bool, datetime, str]:
    intercept = claim.intercept
    return (not (claim.live and claim.holding), not claim.live, intercept.created or _NEVER, intercept.uid)


def _precedence(claim: Claim) -> tuple[int, datetime, str]:
    intercept = claim.intercept
    conditions = len(intercept.match.conditions) if intercept.match is not None else 0
    return (-conditions, intercept.created or _NEVER, intercept.uid)
