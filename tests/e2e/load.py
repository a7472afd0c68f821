"""What users who keep asking (users.py) see while something happens."""

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tests.e2e.person import wait
from tests.e2e.place import Place

USERS = Path(__file__).with_name("users.py")


@dataclass(frozen=True)
class Request:
    """`who` answered, or what happened instead; `kind` is `new` or `kept`."""

    kind: str
    began: float
    seconds: float
    who: str

    @property
    def ended(self) -> float:
        """When, monotonic."""
        return self.began + self.seconds

    @property
    def failed(self) -> bool:
        """Whether the user saw an error."""
        return self.who.startswith("!")


class Load:
    """Runs as a context manager."""

    def __init__(self, place: Place, directory: Path, urls: list[tuple[str, int]]) -> None:
        self._place, self._urls = place, urls
        self._log = directory / "load.log"

    def __enter__(self) -> "Load":
        self._log.unlink(missing_ok=True)
        addresses = [f"{host}:{port}" for host, port in self._urls]
        self._process = self._place.start(sys.executable, "-P", str(USERS), *addresses, log=self._log)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()

    def requests(self, since: float = 0.0) -> list[Request]:
        """Those that began then or later and have ended."""
        found = []
        for line in self._log.read_text().split("\n")[:-1]:
            kind, began, seconds, who = line.split(maxsplit=3)
            found.append(Request(kind, float(began), float(seconds), who))
        return [one for one in found if one.began >= since]

    def wait_answered(self, who: str, since: float, times: int = 20, seconds: float = 60.0) -> float:
        """Wait until so many requests on new connections, begun `since`, were answered so; when the first had been."""

        def answered() -> list[float]:
            ended = [one.ended for one in self.requests(since) if one.kind == "new" and self.is_by(one, who)]
            return ended if len(ended) >= times else []

        return float(min(wait(answered, f"answers by the {who}", seconds)))

    @staticmethod
    def is_by(request: Request, who: str) -> bool:
        """Whether it was answered by the laptop, or by a pod."""
        return request.who[0] not in "!~" and (request.who == "laptop") == (who == "laptop")

    def table(self, since: float) -> str:
        """How many were answered by whom and how many failed how, and the slowest, for each kind."""
        lines = []
        for kind in ("new", "kept"):
            asked = [one for one in self.requests(since) if one.kind == kind]
            by = Counter("pod" if self.is_by(one, "pod") else one.who for one in asked)
            slowest = max((one.seconds for one in asked), default=0.0)
            told = ", ".join(f"{who} {count}" for who, count in sorted(by.items()))
            lines.append(f"{kind}: {told}; slowest {slowest:.2f} s")
        return "\n".join(lines)
