"""Who gets a port of a pod."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.model.objects import intercept, session
from tproxy.model.conflict import Claim, decide
from tproxy.model.intercept import InterceptPort
from tproxy.model.match import Match

START = datetime(2026, 1, 1, tzinfo=UTC)
PORT = InterceptPort(80)


def claim(uid: str, age: int = 0, live: bool = True, holding: bool = False, ports: tuple[int, ...] = (80,)) -> Claim:
    """`age`: seconds older than START."""
    return Claim(
        intercept(uid, created=START - timedelta(seconds=age), ports=tuple(InterceptPort(port) for port in ports)),
        session(f"of-{uid}"),
        live,
        holding,
    )


def winner(*claims: Claim) -> str:
    return decide(claims).winners[PORT].intercept.uid


claims = st.lists(
    st.builds(
        claim,
        uid=st.sampled_from([f"i{n}" for n in range(8)]),
        age=st.integers(0, 3),
        live=st.booleans(),
        holding=st.booleans(),
        ports=st.lists(st.sampled_from([80, 81, 82]), min_size=1, max_size=3, unique=True).map(tuple),
    ),
    max_size=8,
    unique_by=lambda each: each.intercept.uid,
)


def test_the_older_one_wins() -> None:
    assert winner(claim("a", age=1), claim("b", age=2)) == "b"


def test_of_equal_age_the_lower_uid_wins() -> None:
    assert winner(claim("b"), claim("a")) == "a"


def test_the_live_one_wins_over_an_older_dead_one() -> None:
    assert winner(claim("dead", age=9, live=False), claim("live")) == "live"


def test_a_live_holder_stays_though_an_older_one_comes_back() -> None:
    assert winner(claim("older", age=9), claim("holder", holding=True)) == "holder"


def test_a_holder_without_a_stream_loses_its_place() -> None:
    assert winner(claim("holder", age=9, live=False, holding=True), claim("live")) == "live"


def test_of_dead_ones_the_older_wins() -> None:
    assert winner(claim("a", age=1, live=False, holding=True), claim("b", age=2, live=False)) == "b"


def test_one_not_created_yet_comes_last() -> None:
    unborn = Claim(intercept("a", created=None), session(), live=True, holding=False)
    assert winner(unborn, claim("z")) == "z"


def test_ports_are_settled_one_by_one_and_losers_learn_who_has_them() -> None:
    first, second = claim("a", age=2, ports=(80, 81)), claim("b", age=1, ports=(81, 82))
    decision = decide([second, first])
    assert {port.port: each.intercept.uid for port, each in decision.winners.items()} == {80: "a", 81: "a", 82: "b"}
    assert decision.losers == {"b": {InterceptPort(81): first}}


def test_protocols_are_ports_of_their_own() -> None:
    udp = Claim(intercept("a", ports=(InterceptPort(80, "UDP"),)), session(), live=True, holding=False)
    decision = decide([udp, claim("b")])
    assert len(decision.winners) == 2
    assert not decision.losers


def test_personal_claims_take_no_port() -> None:
    personal = Claim(intercept("a", match=Match(method="GET"), created=START), session(), live=True, holding=True)
    decision = decide([personal, claim("b")])
    assert decision.winners[PORT].intercept.uid == "b"
    assert not decision.losers


@given(claims, st.randoms())
def test_order_does_not_matter(some: list[Claim], random: object) -> None:
    shuffled = list(some)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert decide(some) == decide(shuffled)


@given(claims)
def test_every_claim_of_a_port_wins_or_loses_it_to_the_one_winner(some: list[Claim]) -> None:
    decision = decide(some)
    assert set(decision.winners) == {port for each in some for port in each.intercept.ports}
    for each in some:
        for port in each.intercept.ports:
            lost = decision.losers.get(each.intercept.uid, {}).get(port)
            assert (decision.winners[port] == each) == (lost is None)
            assert lost is None or lost == decision.winners[port]


@given(claims, claims)
def test_a_live_holder_is_never_displaced(some: list[Claim], newcomers: list[Claim]) -> None:
    held = decide(some).winners
    now = [Claim(each.intercept, each.session, each.live, holding=each.live and each in held.values()) for each in some]
    known = {each.intercept.uid for each in some}
    now += [
        Claim(each.intercept, each.session, each.live, holding=False)
        for each in newcomers
        if each.intercept.uid not in known
    ]
    after = decide(now).winners
    for port, before in held.items():
        if before.live and sum(port in each.intercept.ports and each.holding for each in now) == 1:
            assert after[port].intercept.uid == before.intercept.uid


@given(claims)
def test_deciding_again_changes_nothing(some: list[Claim]) -> None:
    """What was decided, once in force, is what is decided next."""
    single = [claim for claim in some if len(claim.intercept.ports) == 1]
    first = decide(single).winners
    again = [Claim(each.intercept, each.session, each.live, each in first.values()) for each in single]
    assert {port: each.intercept.uid for port, each in decide(again).winners.items()} == {
        port: each.intercept.uid for port, each in first.items()
    }
