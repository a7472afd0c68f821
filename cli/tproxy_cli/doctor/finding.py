"""The result of one check."""

from dataclasses import asdict, dataclass
from typing import Literal

from tproxy.errors import TproxyError

CLUSTER = "cluster"
"""The category of the cluster as it is without tproxy."""

TPROXY = "tproxy"
"""The category of what tproxy has in the cluster."""

NEXT = "`tproxy gather-logs` writes down what there is to know, for whoever helps"
"""The remedy where what failed knows none."""

Outcome = Literal["pass", "warn", "fail", "skip"]
"""`skip`: it could not be looked at, for want of a right that nothing else needs."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`text` says what was found, or what is wrong; `hint` what to do about it."""

    category: str
    name: str
    outcome: Outcome
    text: str
    hint: str = ""

    def __post_init__(self) -> None:
        # Nobody is left alone with what is wrong.
        if self.outcome in ("warn", "fail") and not self.hint:
            object.__setattr__(self, "hint", NEXT)

    def data(self) -> dict[str, str]:
        """For JSON."""
        return asdict(self)


def failed(category: str, name: str, error: TproxyError, outcome: Outcome = "fail") -> Finding:
    """What an error says, as a finding."""
    return Finding(category, name, outcome, error.message, error.hint)
