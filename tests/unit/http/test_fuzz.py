"""Anything in any order: the router neither breaks, nor keeps much, nor speaks to who is gone.

The ends themselves complain when they are used after their end (`tests.unit.http.hop`).
"""

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.http.corpus import ANSWERS, BODILESS, MESSAGES
from tests.unit.http.hop import Recorded, Talk, no_http2
from tproxy.http.head import MAX_HEAD
from tproxy.http.http1 import MAX_PIPELINED, Http1
from tproxy.http.opening import Opening
from tproxy.model.flow import ResetReason

REQUESTS = [message.data for message in MESSAGES if len(message.data) < 2000]
REPLIES = [
    *ANSWERS,
    *BODILESS,
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\nopen",
]
REASONS = st.sampled_from(list(ResetReason))


def pieces(whole: list[bytes]) -> st.SearchStrategy[bytes]:
    """A message, a part of one, or anything."""
    message = st.sampled_from(whole)
    part = st.builds(
        lambda data, a, b: data[min(a, b) : max(a, b) + 1], message, st.integers(0, 200), st.integers(0, 200)
    )
    return st.one_of(message, message, part, st.binary(min_size=1, max_size=20)).filter(bool)


EVENTS = [
    *("eof", "lost", "slow", "fast", "timeout", "drain"),
    *("app eof", "app full", "app room", "laptop eof", "laptop full", "laptop room"),
]
ACTIONS = st.one_of(
    st.tuples(st.just("say"), pieces(REQUESTS)),
    st.tuples(st.just("say"), pieces(REQUESTS)),
    st.tuples(st.sampled_from(["app", "laptop"]), pieces(REPLIES)),
    st.tuples(st.sampled_from(["app", "laptop"]), pieces(REPLIES)),
    st.tuples(st.sampled_from(["lose app", "lose laptop"]), REASONS),
    st.tuples(st.sampled_from(EVENTS), st.none()),
    st.tuples(
        st.just("rescue"), st.sampled_from([None, b"HTTP/1.1 502 Bad Gateway\r\n\r\n", (b"GET / HTTP/1.1\r\n\r\n",)])
    ),
)


class Fuzzed(Talk):
    """Keeps to what routers are promised: nothing is heard of an end that is over."""

    def __init__(self) -> None:
        super().__init__(make=lambda hop: Opening(hop, no_http2))
        self.hop.become(self.router)
        self.lost: set[Recorded] = set()
        self.finished: set[Recorded] = set()

    def alive(self, end: Recorded | None) -> bool:
        return end is not None and not end.over and end not in self.lost

    def act(self, action: str, value: object) -> None:
        hop = self.hop
        if not self.alive(hop.client) or hop.spliced is not None:
            return
        router = hop.router
        assert router is not None
        client_open = self.alive(hop.client) and hop.client not in self.finished
        laptop = hop.laptops[-1] if hop.laptops else None
        match action.split(), value:
            case ["say"], bytes(data) if client_open and not hop.client.paused:
                router.client_data(data)
            case ["eof"], _ if client_open:
                self.finished.add(hop.client)
                router.client_eof()
            case ["lost"], _:
                self.lost.add(hop.client)
                router.client_lost()
            case ["slow"], _:
                router.client_pause()
            case ["fast"], _:
                router.client_resume()
            case ["timeout"], _ if hop.awake is not None:
                hop.awake = None
                router.timeout()
            case ["drain"], _:
                router.drain()
            case ["rescue"], (None | bytes() | tuple()):
                hop.rescued = value
            case [("app" | "laptop"), *_] | ["lose", _], _:
                end = laptop if "laptop" in action else hop.default
                if end is not None and self.alive(end):
                    self.act_at(end, action, value)
            case _:
                pass

    def act_at(self, end: Recorded, action: str, value: object) -> None:
        router = self.hop.router
        assert router is not None
        if isinstance(value, ResetReason):
            self.lost.add(end)
            router.upstream_lost(end, value, "gone")
        elif isinstance(value, bytes):
            if end not in self.finished:
                router.upstream_data(end, value)
        elif action.endswith("eof"):
            if end not in self.finished:
                self.finished.add(end)
                router.upstream_eof(end)
        elif action.endswith("full"):
            router.upstream_pause(end)
        else:
            router.upstream_resume(end)

    def check(self) -> None:
        router = self.hop.router
        if isinstance(router, Http1) and self.hop.spliced is None:
            assert len(router._undecided) <= MAX_HEAD + 4096
            assert len(router._pending) <= MAX_PIPELINED
            assert len(router._answers._head) <= MAX_HEAD + 4096
        elsewhere = [end for end in self.hop.laptops if not end.over and end not in self.lost]
        assert len(elsewhere) <= 1


@settings(max_examples=2000, deadline=None)
@given(st.lists(ACTIONS, max_size=40))
def test_nothing_breaks_it(actions: list[tuple[str, object]]) -> None:
    talk = Fuzzed()
    for action, value in actions:
        talk.act(action, value)
        talk.check()
