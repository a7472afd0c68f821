"""Counts what became of requests on ports with personal intercepts, and how long they took.

PortTally (one port of one pod) ──► Tally (the node)
"""

from collections import Counter
from collections.abc import Iterable

from tproxy.http.port import Choice
from tproxy.model.figures import Outcome, Requests, Timed

_PASSED = Outcome.PASSED
"""Kept at hand: looking up a member of an Enum, and hashing one, are calls of Python each."""


class Tally:
    """The node's."""

    def __init__(self) -> None:
        self._timed: dict[tuple[str, Outcome], Timed] = {}  # by intercept
        self._ended: dict[Outcome, Timed] = {outcome: Timed() for outcome in Outcome}  # of nobody, or gone
        self._passed: Counter[str] = Counter()  # by intercept, of ports that are no longer intercepted
        self.passed = self._ended[_PASSED]
        self.ports: set[PortTally] = set()

    def record(self, outcome: Outcome, choice: Choice | None, seconds: float) -> None:
        """One more."""
        if choice is None or not choice.intercept:
            self._ended[outcome].add(seconds)
            return
        timed = self._timed.get((choice.intercept, outcome))
        if timed is None:
            timed = self._timed[choice.intercept, outcome] = Timed()
        timed.add(seconds)

    def add_passed(self, intercept: str, count: int) -> None:
        """So many requests of a port that was this intercept's were not for it."""
        self._passed[intercept] += count

    def totals(self) -> dict[Outcome, Timed]:
        """Of all intercepts that there have been, and of requests that are nobody's."""
        totals = {outcome: Timed() for outcome in Outcome}
        for outcome, timed in self._ended.items():
            totals[outcome].merge(timed)
        for (_, outcome), timed in self._timed.items():
            totals[outcome].merge(timed)
        return totals

    def requests(self, intercept: str) -> Requests:
        """Those on the ports of one intercept (UID) on this node."""
        found = Requests(self._passed[intercept] + sum(port.passed(intercept) for port in self.ports))
        for outcome in Outcome:
            timed = self._timed.get((intercept, outcome))
            if timed is not None:
                found.timed[outcome] = timed
        return found

    def forget(self, kept: frozenset[str]) -> None:
        """Drop what belongs to none of these intercepts (UIDs), which are all that there are."""
        for uid, outcome in [key for key in self._timed if key[0] not in kept]:
            self._ended[outcome].merge(self._timed.pop((uid, outcome)))
        for uid in [uid for uid in self._passed if uid not in kept]:
            del self._passed[uid]


class PortTally:
    """One port's of one pod."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._nobodys = 0
        self._before: dict[str, int] = {}  # by intercept: what had passed when it began
        tally.ports.add(self)

    def record(self, outcome: Outcome, choice: Choice | None, status: int, seconds: float) -> None:
        """See `Hop.record`."""
        if choice is None:
            self._nobodys += 1
            if outcome is _PASSED:
                self._tally.passed.add(seconds)
                return
        self._tally.record(outcome, choice, seconds)

    def passed(self, intercept: str) -> int:
        """Requests that were for nobody's laptop since this intercept began."""
        before = self._before.get(intercept)
        return 0 if before is None else self._nobodys - before

    def set_intercepts(self, intercepts: Iterable[str]) -> None:
        """The port is these intercepts' (UIDs) from now on."""
        now = set(intercepts)
        for uid in self._before.keys() - now:
            self._tally.add_passed(uid, self.passed(uid))
            del self._before[uid]
        for uid in now - self._before.keys():
            self._before[uid] = self._nobodys

    def close(self) -> None:
        """The port is nobody's any more."""
        self.set_intercepts(())
        self._tally.ports.discard(self)
