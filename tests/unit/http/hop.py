"""A `Hop` that remembers: what HTTP routers are tested with."""

from collections.abc import Callable, Sequence

from tproxy.http.http1 import Http1
from tproxy.http.matcher import Rules
from tproxy.http.port import Buffer, Choice, Hop, Matcher, Router
from tproxy.model.figures import Outcome
from tproxy.model.flow import ResetReason
from tproxy.model.match import HeaderMatch, Match


class Recorded:
    """An end of a connection. `events` is what was asked of it besides writing."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.data = b""
        self.events: list[str] = []
        self.paused = False
        self.reused = False

    @property
    def over(self) -> bool:
        return bool({"close", "reset", "release"} & set(self.events))

    def write(self, data: Buffer) -> None:
        assert not self.over, f"{self.name} was written to after {self.events}: {bytes(data)!r}"
        assert "eof" not in self.events
        self.data += bytes(data)

    def write_eof(self) -> None:
        assert not self.over
        if "eof" not in self.events:
            self.events.append("eof")

    def close(self) -> None:
        assert not self.over
        self.events.append("close")

    def reset(self) -> None:
        assert not self.over
        self.events.append("reset")

    def release(self) -> None:
        assert not self.over
        self.events.append("release")

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def __repr__(self) -> str:
        return f"<{self.name} {self.data!r} {self.events}>"


ADA = Choice("uid-ada", "session-ada", "shop/web-ada", "adas-laptop")
EVE = Choice("uid-eve", "session-eve", "shop/web-eve", "eves-laptop", fallback_when_refused=True)
FAY = Choice("uid-fay", "session-fay", "shop/web-fay", "fays-laptop", on_disconnect="fail")
MATCHER = Rules(
    [(Match((HeaderMatch("x-user", choice.intercept[4:]),)), choice) for choice in (ADA, EVE, FAY)], (b"kube-probe/",)
)


class RecordedHop:
    """`laptops` are the connections opened, in order; `unreachable` the intercepts that there is no way to."""

    def __init__(self, matcher: Matcher = MATCHER) -> None:
        self.client = Recorded("client")
        self.default = Recorded("app")
        self.apps = [self.default]
        self.matcher = matcher
        self.laptops: list[Recorded] = []
        self.choices: list[Choice] = []
        self.unreachable: set[str] = set()
        self.spliced: Recorded | None = None
        self.router: Router | None = None
        self.awake: float | None = None
        self.records: list[tuple[Outcome, str, int]] = []
        self.time = 0.0
        self.holding = 0
        self.crowded = False
        self.rescued: tuple[bytes] | bytes | None = None

    def now(self) -> float:
        return self.time

    def open(self, choice: Choice, fresh: bool = False) -> Recorded | None:
        if choice.intercept in self.unreachable:
            return None
        laptop = Recorded(choice.intercept)
        self.laptops.append(laptop)
        self.choices.append(choice)
        return laptop

    def reopen(self) -> Recorded:
        self.default = Recorded("app")
        self.apps.append(self.default)
        return self.default

    def stand_in(self, reason: ResetReason, detail: str) -> Recorded | bytes | None:
        """As if the default upstream had been a laptop; `rescued` is what it was asked, or the client shall be told."""
        if self.rescued is None or isinstance(self.rescued, bytes):
            return self.rescued
        self.reopen().write(self.rescued[0])
        return self.default

    def splice(self, upstream: Recorded) -> None:
        assert self.spliced is None
        self.spliced = upstream

    def become(self, router: Router) -> None:
        self.router = router

    def wake(self, seconds: float | None) -> None:
        self.awake = seconds

    def held(self, size: int) -> bool:
        self.holding = size
        return not self.crowded

    def record(self, outcome: Outcome, choice: Choice | None, status: int, seconds: float) -> None:
        self.records.append((outcome, choice.intercept if choice else "", status))


def no_http2(hop: Hop, early: bytes, upgraded: bool) -> Router:
    raise AssertionError("HTTP/2")


class Talk:
    """A client and upstreams around a router. What is said after a splice goes straight through."""

    def __init__(
        self,
        matcher: Matcher = MATCHER,
        make: Callable[[RecordedHop], Router] = lambda hop: Http1(hop, no_http2),
    ) -> None:
        self.hop = RecordedHop(matcher)
        self.router = make(self.hop)

    def say(self, *pieces: bytes) -> "Talk":
        """The client speaks."""
        for piece in pieces:
            if self.hop.spliced is not None:
                self.hop.spliced.data += piece
            else:
                self._router.client_data(piece)
        return self

    @property
    def _router(self) -> Router:
        return self.hop.router or self.router

    def answer(self, upstream: Recorded, *pieces: bytes) -> "Talk":
        """An upstream speaks."""
        for piece in pieces:
            if self.hop.spliced is upstream:
                self.hop.client.data += piece
            else:
                self._router.upstream_data(upstream, piece)
        return self

    def app(self, *pieces: bytes) -> "Talk":
        return self.answer(self.hop.default, *pieces)

    def laptop(self, *pieces: bytes) -> "Talk":
        return self.answer(self.hop.laptops[-1], *pieces)

    def eof(self) -> "Talk":
        if self.hop.spliced is None:
            self._router.client_eof()
        return self

    def timeout(self) -> None:
        self.hop.awake = None
        self._router.timeout()

    def lose(self, upstream: Recorded, reason: ResetReason = ResetReason.RESET, detail: str = "") -> "Talk":
        self._router.upstream_lost(upstream, reason, detail)
        return self

    @property
    def client(self) -> Recorded:
        return self.hop.client

    @property
    def outcomes(self) -> Sequence[Outcome]:
        return [outcome for outcome, _, _ in self.hop.records]
