"""Requests are counted for the intercepts of their port, and told to nobody but their owners."""

import json
from typing import Any

from tproxy_node.opening import Identity, Openings
from tproxy_node.personal.figures import Figures
from tproxy_node.personal.tally import PortTally, Tally

from tproxy.http.port import APP, Choice
from tproxy.model.figures import Outcome
from tproxy.model.flow import NOWHERE, FlowKind, OpenRequest

ADA, BOB = Choice("uid-ada"), Choice("uid-bob")
PASSED, MATCHED = Outcome.PASSED, Outcome.MATCHED


def test_passed_requests_count_from_an_intercepts_beginning_to_its_end() -> None:
    tally = Tally()
    port, other = PortTally(tally), PortTally(tally)
    other.set_intercepts(["uid-bob"])
    port.record(PASSED, None, 200, 0.1)
    port.set_intercepts(["uid-ada"])
    port.record(PASSED, None, 200, 0.1)
    port.record(MATCHED, ADA, 200, 0.1)
    port.set_intercepts(["uid-ada", "uid-bob"])
    port.record(PASSED, None, 200, 0.1)
    assert tally.requests("uid-ada").passed == 2
    assert tally.requests("uid-bob").passed == 1
    port.close()
    port.record(PASSED, None, 200, 0.1)  # a connection from before
    assert tally.requests("uid-ada").passed == 2
    assert tally.requests("uid-ada").count(MATCHED) == 1
    assert tally.requests("uid-bob").count(MATCHED) == 0
    assert tally.ports == {other}


def test_totals_never_go_back() -> None:
    tally = Tally()
    port = PortTally(tally)
    port.set_intercepts(["uid-ada"])
    for outcome, choice in ((MATCHED, ADA), (Outcome.FAILED, BOB), (PASSED, None), (PASSED, APP)):
        port.record(outcome, choice, 200, 0.1)
    before = {outcome: timed.count for outcome, timed in tally.totals().items()}
    assert before == {PASSED: 2, MATCHED: 1, Outcome.FAILED: 1, Outcome.FALLBACK: 0}
    port.close()
    tally.forget(frozenset({"uid-bob"}))
    assert {outcome: timed.count for outcome, timed in tally.totals().items()} == before
    assert tally.requests("uid-ada").to_json() == {"passed": 0, "timed": {}}
    assert tally.requests("uid-bob").count(Outcome.FAILED) == 1


class FakeConn:
    """A connection that a laptop opened."""

    def __init__(self) -> None:
        self.request = OpenRequest(FlowKind.READ, NOWHERE, protocol="requests")
        self.said: list[Any] = []
        self.sink: Any = None

    def accept(self) -> None:
        self.said.append("accepted")

    def write(self, data: bytes) -> None:
        self.said.append(json.loads(data))

    def write_eof(self) -> None:
        self.said.append("end")


def test_a_laptop_hears_of_its_own_intercepts_only() -> None:
    tally = Tally()
    port = PortTally(tally)
    for choice in (ADA, BOB):
        port.record(MATCHED, choice, 200, 0.002)
    openings = Openings()
    sessions = {"session-ada": ["uid-ada"], "session-bob": ["uid-bob"]}
    Figures(lambda uid: sessions.get(uid, []), tally.requests).serve_in(openings)
    conn: Any = FakeConn()
    openings.open(Identity("session-ada", "shop/laptop", "ada", "shop"), conn)
    accepted, document, end = conn.said
    assert (accepted, end) == ("accepted", "end")
    assert document == {"intercepts": {"uid-ada": tally.requests("uid-ada").to_json()}}
