"""Counts what became of requests on ports with personal intercepts, and how long they took."""

from bisect import bisect_left
from collections import Counter

from tproxy.http.port import Choice, Outcome

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds in seconds; what took longer is in one more."""


class Timed:
    """Durations of one kind of request."""

    __slots__ = ("buckets", "seconds")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.buckets)


class Tally:
    """`by_intercept` has, by UID and outcome, those of one intercept; passed ones are nobody's and have UID "".

    `statuses` counts the first digit of what laptops and we answered by intercept; 0 stands for no answer.
    """

    def __init__(self) -> None:
        self.by_intercept: dict[tuple[str, Outcome], Timed] = {}
        self.statuses: Counter[tuple[str, int]] = Counter()
        self._passed = self._timed("", Outcome.PASSED)

    def record(self, outcome: Outcome, choice: Choice | None, status: int, seconds: float) -> None:
        """One more; see `Hop.record`."""
        if choice is None:
            timed = self._passed
        else:
            timed = self.by_intercept.get((choice.intercept, outcome)) or self._timed(choice.intercept, outcome)
            self.statuses[choice.intercept, status // 100] += 1
        timed.buckets[bisect_left(BUCKETS, seconds)] += 1
        timed.seconds += seconds

    def _timed(self, intercept: str, outcome: Outcome) -> Timed:
        return self.by_intercept.setdefault((intercept, outcome), Timed())

    def forget(self, kept: frozenset[str]) -> None:
        """Drop what belongs to none of these intercepts (UIDs), which are all that there are."""
        for uid, outcome in [key for key in self.by_intercept if key[0] and key[0] not in kept]:
            del self.by_intercept[uid, outcome]
        for key in [key for key in self.statuses if key[0] not in kept]:
            del self.statuses[key]
