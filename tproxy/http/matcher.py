"""Personal intercepts of one port, ready to decide requests. Which comes first is settled before (`tproxy.model`)."""

from collections.abc import Iterable

from tproxy.http.port import APP, Choice, Field
from tproxy.model.match import Match
from tproxy.model.matching import Chooser

_AGENT = b"user-agent"


class Rules:
    """A `Matcher`: `intercepts` in order.

    Requests whose User-Agent begins with one of `agents` are health checks, which only laptops get that asked for them;
    `checks` is where they go: None, the default upstream, or `APP`.
    """

    def __init__(
        self, intercepts: Iterable[tuple[Match, Choice]], agents: tuple[bytes, ...] = (), checks: Choice | None = None
    ) -> None:
        listed = list(intercepts)
        self._chooser = Chooser(listed)
        self._agents = agents
        self._checks = checks
        self._telling = self._chooser.wanted
        self._by_headers = all(match.headers or match.baggage for match, _ in listed)
        self.names = self._telling | {_AGENT} if agents else self._telling

    def pick(self, method: bytes, target: bytes, fields: Iterable[Field]) -> Choice | None:
        """The first intercept that matches, or None."""
        fields = list(fields)
        if self._by_headers:
            for name, _ in fields:
                if name in self._telling:
                    break
            else:  # most requests on a port that people share
                return APP if self._checks is APP and self._is_check(fields) else None
        choice = self._chooser.choose(method, target, fields)
        if (self._checks is APP if choice is None else not choice.checks) and self._is_check(fields):
            return self._checks
        return choice

    def _is_check(self, fields: Iterable[Field]) -> bool:
        return any(name == _AGENT and value.startswith(self._agents) for name, value in fields)
