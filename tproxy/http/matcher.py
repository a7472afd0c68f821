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
        wanted = self._chooser.wanted
        self.names = wanted | {_AGENT} if agents else wanted
        self.telling: frozenset[bytes] | None = None
        if all(match.headers or match.baggage for match, _ in listed):
            self.telling = self.names if checks is APP else wanted

    def pick(self, method: bytes, target: bytes, fields: Iterable[Field]) -> Choice | None:
        """The first intercept that matches, or None."""
        fields = list(fields)
        choice = self._chooser.choose(method, target, fields)
        if (self._checks is APP if choice is None else not choice.checks) and self._is_check(fields):
            return self._checks
        return choice

    def _is_check(self, fields: Iterable[Field]) -> bool:
        return any(name == _AGENT and value.startswith(self._agents) for name, value in fields)
