"""What `why` comes to, from what was found: one broken thing at a time, and the sentence that names it."""

from dataclasses import replace

import pytest
from tproxy_node.debug.facts import Candidate, Facts, Tried, Tunnel
from tproxy_node.debug.reasons import Step, Verdict, explain
from tproxy_node.debug.seen import Seen

from tproxy.steer.held import Held
from tproxy.steer.port import Counters, SteeredPort
from tproxy.steer.sock_diag import Listening

PORT = SteeredPort(8080)
OURS, APP = 11, 22
HELD = Held("sk_lookup", "link 7", 4026, "TCP", True, 1.2, {PORT: Counters(steered=3)}, frozenset({OURS}))
RELAY = Listening("127.0.0.1", 40001, 0, 4096, 1, OURS)
LISTENS = Listening("0.0.0.0", 8080, 0, 128, 2, APP)
SEEN = Seen(4026, (HELD,), (RELAY, LISTENS), 0)
ADA = Candidate("shop/web", "ada@laptop", "session-ada", (PORT,), "", "Ready")
EVE = Candidate("shop/web-eve", "eve@desk", "session-eve", (PORT,), "x-user=eve", "Ready")
WELL = Facts(
    pod="shop/web-1",
    node="node1",
    port=PORT,
    candidates=(ADA,),
    seen=SEEN,
    cookies=frozenset({OURS}),
    chosen=ADA,
    tunnel=Tunnel(1, quiet=0.5, rtt=0.01),
    tried=Tried("accepted"),
)


def seen(held: Held | None = HELD, *listening: Listening) -> Seen:
    return Seen(4026, (held,) if held is not None else (), listening or (RELAY, LISTENS), 9)


def last(facts: Facts) -> Verdict:
    return explain(facts)[1]


def bad(facts: Facts) -> list[Step]:
    return [step for step in explain(facts)[0] if step.outcome == "no"]


def test_all_is_well() -> None:
    assert last(WELL) == Verdict("laptop", "a new connection to port 8080 goes to ada@laptop, by shop/web")
    assert bad(WELL) == []


@pytest.mark.parametrize(
    ("facts", "goes", "text"),
    [
        (replace(WELL, candidates=(), chosen=None), "app", "nobody intercepts shop/web-1"),
        (replace(WELL, port=SteeredPort(9090), chosen=None, seen=seen(HELD, RELAY)), "nobody", "port 9090 is refused"),
        (replace(WELL, port=SteeredPort(53, "UDP"), chosen=None), "app", "port 53/udp is not intercepted"),
        (replace(WELL, tried=Tried("refused", "port 3000")), "nobody", "is down: nothing listens there (port 3000)"),
        (replace(WELL, tried=Tried("timed-out")), "nobody", "accepts nothing: it is stopped"),
        (replace(WELL, tried=Tried("denied", "no")), "nobody", "does not take connections of shop/web"),
        (replace(WELL, tunnel=Tunnel(1, quiet=4.2)), "nobody", "the tunnel has stalled: the laptop of ada@laptop"),
        (replace(WELL, tunnel=Tunnel(1, oldest=2.5)), "laptop", "bytes have waited in it for 2.5 s"),
        (replace(WELL, seen=seen(replace(HELD, lease=-3.0))), "app", "the lease has run out since 3.0 s"),
        (replace(WELL, seen=seen(None)), "app", "port 8080 should be steered for an intercept, and is not"),
        (replace(WELL, seen=seen(replace(HELD, attached=False))), "app", "is no longer attached"),
        (replace(WELL, seen=seen(replace(HELD, listeners=frozenset()))), "app", "the program has no listener"),
        (
            replace(WELL, seen=seen(replace(HELD, listeners=frozenset({99})))),
            "app",
            "steered to listeners that are not this daemon's",
        ),
        (replace(WELL, seen=seen(HELD, replace(RELAY, queue=4097), LISTENS)), "nobody", "accepts too slowly"),
        (replace(WELL, seen=None, unsteered="the pod has no running process"), "app", "no running process"),
        (replace(WELL, full=True), "app", "the node is full"),
        (replace(WELL, session_full=True), "app", "the session is full"),
        (replace(WELL, older=4), "laptop", "4 older connections stay with the app"),
        (
            replace(WELL, source="10.0.0.1", from_node=True, checker=True),
            "app",
            "it is a health check, which the app answers itself",
        ),
        (
            replace(WELL, source="10.0.0.1", from_node=True, seen=seen(HELD, RELAY)),
            "nobody",
            "nothing listens on it in the pod",
        ),
        (
            replace(
                WELL, seen=seen(replace(HELD, ports={PORT: Counters()}), RELAY), others=("Service web sends to 9",)
            ),
            "laptop",
            "port 8080 is the wrong port",
        ),
    ],
)
def test_what_is_broken_is_named(facts: Facts, goes: str, text: str) -> None:
    verdict = last(facts)
    assert text in verdict.text
    assert verdict.goes == goes


@pytest.mark.parametrize(
    ("lost", "text"),
    [
        (None, "there is no tunnel to ada@laptop; so the app gets it"),
        (Tunnel(0), "there is no tunnel to ada@laptop; so the app gets it"),
        (Tunnel(0, lost="the laptop was silent for 6 s", lost_ago=3), "the tunnel to ada@laptop has stalled"),
        (Tunnel(0, lost="the laptop closed the tunnel", lost_ago=3), "the tunnel to ada@laptop is gone"),
    ],
)
def test_without_a_tunnel_the_app_serves(lost: Tunnel | None, text: str) -> None:
    waiting = replace(ADA, state="Pending", reason="NoTunnel", trouble="no tunnel from the laptop to this node")
    verdict = last(replace(WELL, candidates=(waiting,), chosen=None, tunnel=lost))
    assert text in verdict.text
    assert verdict.goes == "app"


def test_a_conflict_names_the_other() -> None:
    refused = replace(EVE, state="Conflicted", reason="PortTaken", trouble="port 8080 is intercepted by web of ada")
    assert "was refused: port 8080 is intercepted by web of ada" in last(replace(WELL, candidates=(ADA, refused))).text
    alone = last(replace(WELL, candidates=(refused,), chosen=None))
    assert alone.text == "shop/web-eve of eve@desk has not got the port: port 8080 is intercepted by web of ada"


def test_requests_are_decided_one_by_one() -> None:
    ada = replace(ADA, match="path=/cart")
    facts = replace(WELL, candidates=(ada, EVE), personal=True, chosen=ada, matching=(ada, EVE), asked="GET /cart")
    assert last(facts).text == (
        "such a request goes to ada@laptop, by shop/web (path=/cart);"
        " shop/web-eve of eve@desk (x-user=eve) matches too, but shop/web goes first"
    )
    facts = replace(facts, chosen=None, matching=())
    assert last(facts).text == (
        "such a request matches no intercept, so the app gets it:"
        " shop/web of ada@laptop takes path=/cart; shop/web-eve of eve@desk takes x-user=eve"
    )
    facts = replace(facts, seen=seen(HELD, RELAY, replace(LISTENS, queue=129)))
    assert last(facts).text.startswith("the app's accept queue overflows: 129 connections wait on port 8080")
