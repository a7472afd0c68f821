"""Who gets a port of a pod when several intercepts want it.

One global intercept has whatever no personal one wants. Personal ones share a port as long as none of two is only about
requests that the other is about, too: then one of them would never see any. Of those that share, the one with more
conditions is asked first, then the older.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from tproxy.model.implication import implies
from tproxy.model.intercept import Intercept, InterceptPort
from tproxy.model.match import Condition, HeaderMatch, Match, MatchKind, PathMatch
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
    ports: dict[InterceptPort, _Port] = {}
    losers: dict[str, dict[InterceptPort, Claim]] = {}
    for claim in sorted(claims, key=_rank):
        match = claim.intercept.match
        taken = {
            port: other
            for port in claim.intercept.ports
            if port in ports and (other := ports[port].in_the_way(match)) is not None
        }
        if taken:
            losers[claim.intercept.uid] = taken
            continue
        for port in claim.intercept.ports:
            ports.setdefault(port, _Port()).add(claim)
    return Decision({port: tuple(sorted(each.claims, key=_precedence)) for port, each in ports.items()}, losers)


def exclude(one: Match | None, other: Match | None) -> bool:
    """Whether two intercepts of a port cannot both be had: two global ones, or one's requests are all the other's."""
    if one is None or other is None:
        return one is other
    return implies(one, other) or implies(other, one)


class _Port:
    """The claims that have a port so far, to be found by what is in their matches: there may be hundreds."""

    def __init__(self) -> None:
        self.claims: list[Claim] = []
        self._global: Claim | None = None
        self._loose: list[Claim] = []  # with patterns and prefixes only
        self._plain: dict[Condition, list[Claim]] = {}  # by their plain condition
        self._having: dict[Condition, list[Claim]] = {}  # by any

    def add(self, claim: Claim) -> None:
        """It has the port."""
        self.claims.append(claim)
        match = claim.intercept.match
        if match is None:
            self._global = claim
            return
        plain = _plain(match)
        if plain is None:
            self._loose.append(claim)
        else:
            self._plain.setdefault(plain, []).append(claim)
        for condition in match.conditions:
            self._having.setdefault(condition, []).append(claim)

    def in_the_way(self, match: Match | None) -> Claim | None:
        """The first that excludes a claim with this match."""
        if match is None:
            return self._global
        return next((each for each in self._similar(match) if exclude(match, each.intercept.match)), None)

    def _similar(self, match: Match) -> Iterator[Claim]:
        """All that could: a plain condition follows from nothing but itself, so whoever implies it has it, too."""
        plain = _plain(match)
        if plain is None:
            yield from self.claims
            return
        yield from self._having.get(plain, ())
        yield from self._loose
        for condition in match.conditions:
            yield from self._plain.get(condition, ())


def _plain(match: Match) -> Condition | None:
    """A condition of the match that no other condition implies, if it has one."""
    for condition in match.conditions:
        if isinstance(condition, str):
            return condition
        if isinstance(condition, HeaderMatch) and not condition.regex:
            return condition
        if isinstance(condition, PathMatch) and condition.kind is MatchKind.EXACT:
            return condition
    return None


def _rank(claim: Claim) -> tuple[bool, bool, datetime, str]:
    intercept = claim.intercept
    return (not (claim.live and claim.holding), not claim.live, intercept.created or _NEVER, intercept.uid)


def _precedence(claim: Claim) -> tuple[int, datetime, str]:
    intercept = claim.intercept
    conditions = len(intercept.match.conditions) if intercept.match is not None else 0
    return (-conditions, intercept.created or _NEVER, intercept.uid)
