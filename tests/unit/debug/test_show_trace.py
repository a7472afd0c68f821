"""A trace for people."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tproxy.debug import show_trace

BASE = {"time": 0.25, "namespace": "shop", "pod": "web-1", "local": "10.0.0.1:80", "remote": "10.0.0.2:4321"}


def what(**event: Any) -> str:
    return show_trace.row(BASE | event)[-1]


def test_a_line() -> None:
    text = show_trace.line(show_trace.row(BASE | {"event": "reset-sent", "state": "", "reason": "NO_SOCKET"}))
    assert text.split()[1:] == ["reset-sent", "shop/web-1", "10.0.0.1:80", "10.0.0.2:4321", "NO_SOCKET"]
    assert text.split()[0].endswith(":00.250000")
    heads = show_trace.line(show_trace.COLUMNS)
    assert heads.index("LOCAL") == text.index("10.0.0.1"), "heads stand above what they are about"


def test_what_happened() -> None:
    assert what(event="state", **{"from": "SYN_SENT"}, to="ESTABLISHED", connectMicroseconds=1500) == (
        "SYN_SENT -> ESTABLISHED  handshake 1.5ms"
    )
    assert what(event="drop", protocol="TCP", direction="in", reason="NO_SOCKET") == "TCP in NO_SOCKET"
    assert what(event="overflow", refused=3, waiting=129, room=128).startswith(
        "3x connection refused, for want of room"
    )
    assert what(event="steer", verdict="lease_expired", count=2, protocol="TCP") == (
        "2x left to the app: the daemon did not renew its lease"
    )
    assert what(event="steer", verdict="laptop", reason="intercept", intercept="shop/web", protocol="UDP") == (
        "UDP laptop: of its intercept shop/web"
    )
    assert what(event="steer", verdict="request", reason="matched", intercept="shop/web") == "request matched shop/web"
    assert what(event="retransmit", state="ESTABLISHED") == "ESTABLISHED"


def test_a_summary() -> None:
    found = {
        "seconds": 2.04,
        "events": {"state": 10, "drop": 2, "overflow": 0},
        "lost": 1,
        "omitted": 7,
        "drops": {"NO_SOCKET": 2},
        "connectSlots": [0, 0],
        "openSlots": [0, 1, 0, 3],
    }
    assert show_trace.summary(found) == [
        "2.0 s: 10 state, 2 drop",
        "7 events are counted and not shown: they came more than --rate allows",
        "1 events are counted and not shown: they came faster than they could be read",
        "dropped packets: 2 NO_SOCKET",
        "",
        "open for: 4, half within 8us, 99 % within 8us",
        "        1us - 2us 1 ##############",
        "        2us - 4us 0",
        "        4us - 8us 3 ########################################",
    ]
    assert show_trace.summary({}) == ["0.0 s: nothing happened"]


def told(output: str) -> tuple[list[str], list[str]]:
    text = show_trace.TraceText(output)
    assert text.watched == "0 pods"
    answer: list[dict[str, Any]] = [
        {"preparing": True},
        {"watching": 1},
        {"summary": {"seconds": 1, "events": {}}},
        BASE | {"event": "retransmit", "state": "ESTABLISHED"},
        {"watching": 2},
        {"summary": {"seconds": 2, "events": {"retransmit": 1}}},
    ]
    lines = [line for one in answer for line in text.feed(one)]
    assert text.watched == "2 pods"
    return lines, list(text.end())


def test_an_answer_as_a_table() -> None:
    (heads, event), end = told("table")
    assert heads.split() == ["TIME", "EVENT", "POD", "LOCAL", "REMOTE", "WHAT"]
    assert event.endswith("10.0.0.2:4321             ESTABLISHED")
    assert end == ["", "2.0 s: 1 retransmit"]
    assert list(show_trace.TraceText("table").end()) == [], "nothing has come"


def test_an_answer_as_json() -> None:
    (event,), (summary,) = told("json")
    assert json.loads(event)["event"] == "retransmit"
    assert json.loads(summary) == {"summary": {"seconds": 2, "events": {"retransmit": 1}}}


@given(st.dictionaries(st.sampled_from(["event", "time", "local", "pod", "count", "refused"]), st.text() | st.none()))
def test_nothing_that_a_node_sends_breaks_it(event: dict[str, Any]) -> None:
    assert "\x1b" not in show_trace.line(show_trace.row(event))
