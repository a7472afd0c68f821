"""What became of requests on ports with personal intercepts, and how long they took, in numbers."""

import enum
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tproxy.model.fields import Fields

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds in seconds; what took longer is in one more."""

MAX_COUNT = 2**53
"""Counts are exact in every JSON up to here."""


class Outcome(enum.Enum):
    """What became of a request."""

    PASSED = "passed"  # not for anybody's laptop
    MATCHED = "matched"  # answered by the laptop
    FALLBACK = "fallback"  # for the laptop, answered by the app in its stead
    FAILED = "failed"  # for the laptop, answered by us, or not at all


class Timed:
    """Durations of requests of one kind: `buckets` by `BUCKETS`, and their sum in seconds."""

    __slots__ = ("buckets", "seconds")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        """One more."""
        self.buckets[bisect_left(BUCKETS, seconds)] += 1
        self.seconds += seconds

    def merge(self, other: "Timed") -> None:
        """Add another's."""
        self.buckets = [mine + theirs for mine, theirs in zip(self.buckets, other.buckets, strict=True)]
        self.seconds += other.seconds

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.buckets)

    def quantile(self, part: float) -> float | None:
        """The time within which that part of them was over, as far as buckets tell; None without any."""
        rank, before = self.count * part, 0
        if not rank:
            return None
        for number, count in enumerate(self.buckets):
            if before + count >= rank:
                if number == len(BUCKETS):
                    break
                low = BUCKETS[number - 1] if number else 0.0
                return low + (BUCKETS[number] - low) * (rank - before) / count
            before += count
        return BUCKETS[-1]


@dataclass(slots=True)
class Requests:
    """Requests on the ports of one intercept. `passed` were not for its laptop."""

    passed: int = 0
    timed: dict[Outcome, Timed] = field(default_factory=dict)

    def merge(self, other: "Requests") -> None:
        """Add another's, of another pod or node."""
        self.passed += other.passed
        for outcome, timed in other.timed.items():
            self.timed.setdefault(outcome, Timed()).merge(timed)

    def count(self, outcome: Outcome) -> int:
        """How many had this outcome."""
        if outcome is Outcome.PASSED:
            return self.passed
        return self.timed[outcome].count if outcome in self.timed else 0

    def to_json(self) -> dict[str, Any]:
        """For the way through the tunnel."""
        timed = {
            outcome.value: {"buckets": list(each.buckets), "seconds": each.seconds}
            for outcome, each in self.timed.items()
        }
        return {"passed": self.passed, "timed": timed}

    @classmethod
    def from_json(cls, value: object) -> "Requests":
        """Read it; `InvalidError` on anything else. Outcomes of a newer node are left out."""
        fields = Fields(value, "figures of requests")
        result = cls(passed=fields.number("passed", 0, MAX_COUNT, 0))
        timed = fields.optional("timed")
        for outcome in Outcome:
            if outcome.value in timed:
                result.timed[outcome] = _timed(timed.part(outcome.value))
        return result


def _timed(fields: Fields) -> Timed:
    result = Timed()
    result.buckets = fields.numbers("buckets", len(BUCKETS) + 1, MAX_COUNT)
    result.seconds = fields.decimal("seconds", 0.0, float(MAX_COUNT))
    return result


def read_all(value: object, limit: int) -> Mapping[str, Requests]:
    """Figures by intercept UID. Raises `InvalidError`."""
    parts = Fields(value, "figures of requests").named_parts("intercepts", limit)
    return {uid: Requests.from_json(part.raw) for uid, part in parts.items()}
