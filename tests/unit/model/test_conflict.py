"""Who gets a port of a pod."""

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.model.objects import intercept, session
from tproxy.model.conflict import Claim, decide, exclude
from tproxy.model.intercept import InterceptPort
from tproxy.model.match import HeaderMatch, Match, MatchKind, PathMatch

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
    [won] = decide(claims).winners[PORT]
    return won.intercept.uid


some_matches = st.none() | st.builds(
    Match,
    headers=st.lists(
        st.sampled_from([HeaderMatch("x", "1"), HeaderMatch("x", "2"), HeaderMatch("y", ".*", regex=True)]), max_size=2
    ).map(tuple),
    path=st.none() | st.sampled_from([PathMatch("/a"), PathMatch("/a", MatchKind.PREFIX)]),
    method=st.just("GET"),
)
claims = st.lists(
    st.builds(
        lambda match, **values: replace(made := claim(**values), intercept=replace(made.intercept, match=match)),
        match=some_matches,
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


def test_a_loser_has_none_of_its_ports_and_learns_who_has_which() -> None:
    first, second = claim("a", age=2, ports=(80, 81)), claim("b", age=1, ports=(81, 82))
    third = claim("c", ports=(82,))
    decision = decide([third, second, first])
    assert {port.port: each[0].intercept.uid for port, each in decision.winners.items()} == {80: "a", 81: "a", 82: "c"}
    assert decision.losers == {"b": {InterceptPort(81): first}}


def test_protocols_are_ports_of_their_own() -> None:
    udp = Claim(intercept("a", ports=(InterceptPort(80, "UDP"),)), session(), live=True, holding=False)
    decision = decide([udp, claim("b")])
    assert len(decision.winners) == 2
    assert not decision.losers


def personal(uid: str, match: Match, **more: object) -> Claim:
    made = claim(uid, **more)  # type: ignore[arg-type]
    return replace(made, intercept=replace(made.intercept, match=match))


ADA, BOB = Match((HeaderMatch("x-user", "ada"),)), Match((HeaderMatch("x-user", "bob"),))
ADA_POSTS = Match(ADA.headers, method="POST")


def order(*claims: Claim) -> list[str]:
    return [each.intercept.uid for each in decide(claims).winners[PORT]]


def test_personal_ones_share_a_port_with_a_global_one_which_comes_last() -> None:
    assert order(claim("global", age=9), personal("ada", ADA, age=2), personal("bob", BOB, age=1)) == [
        "ada",
        "bob",
        "global",
    ]


def test_more_conditions_are_asked_first_then_the_older() -> None:
    api_gets = Match(path=PathMatch("/api", MatchKind.PREFIX), method="GET")
    assert order(personal("ada", ADA, age=3), personal("api", api_gets, age=1), personal("bob", BOB, age=2)) == [
        "api",
        "ada",
        "bob",
    ]


@pytest.mark.parametrize(("first", "second"), [(ADA, ADA), (ADA, ADA_POSTS), (ADA_POSTS, ADA)])
def test_equal_or_implied_matches_exclude_each_other(first: Match, second: Match) -> None:
    older, newer = personal("older", first, age=1), personal("newer", second)
    decision = decide([newer, older])
    assert decision.winners[PORT] == (older,)
    assert decision.losers == {"newer": {PORT: older}}


def test_a_frozen_personal_holder_loses_its_place_and_does_not_get_it_back_by_age() -> None:
    frozen, other = personal("frozen", ADA, age=9, live=False, holding=True), personal("other", ADA)
    assert order(frozen, other) == ["other"]
    back, holder = personal("frozen", ADA, age=9), personal("other", ADA, holding=True)
    assert order(back, holder) == ["other"]


@given(claims, st.randoms())
def test_order_does_not_matter(some: list[Claim], random: object) -> None:
    shuffled = list(some)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert decide(some) == decide(shuffled)


@given(claims)
def test_every_claim_wins_all_of_its_ports_or_loses_to_a_winner_that_excludes_it(some: list[Claim]) -> None:
    decision = decide(some)
    for each in some:
        lost = decision.losers.get(each.intercept.uid, {})
        for port in each.intercept.ports:
            assert (each in decision.winners.get(port, ())) == (not lost)
        for port, other in lost.items():
            assert other in decision.winners[port]
            assert exclude(each.intercept.match, other.intercept.match)


@given(claims)
def test_it_is_what_looking_at_every_pair_gives(some: list[Claim]) -> None:
    accepted: list[Claim] = []
    rank = lambda each: (  # noqa: E731
        not (each.live and each.holding),
        not each.live,
        each.intercept.created,
        each.intercept.uid,
    )
    for each in sorted(some, key=rank):
        ports = set(each.intercept.ports)
        if not any(
            ports & set(other.intercept.ports) and exclude(each.intercept.match, other.intercept.match)
            for other in accepted
        ):
            accepted.append(each)
    assert {each.intercept.uid for each in some} - decide(some).losers.keys() == {
        each.intercept.uid for each in accepted
    }


def test_hundreds_of_people_share_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not every pair of them has to be looked at."""
    looked = []
    monkeypatch.setattr("tproxy.model.conflict.exclude", lambda *pair: looked.append(pair) or exclude(*pair))
    people = [personal(f"p{n:04}", Match((HeaderMatch("x-user", f"p{n}"),), method="GET"), age=n) for n in range(500)]
    assert len(decide(people).winners[PORT]) == 500
    assert len(looked) < 5000


@given(claims)
def test_winners_of_a_port_never_exclude_each_other(some: list[Claim]) -> None:
    for won in decide(some).winners.values():
        for one, other in itertools.combinations(won, 2):
            assert not exclude(one.intercept.match, other.intercept.match)
        assert all(each.intercept.match is not None for each in won[:-1])


@given(claims, claims)
def test_live_holders_are_never_displaced(some: list[Claim], newcomers: list[Claim]) -> None:
    held = {each.intercept.uid for won in decide(some).winners.values() for each in won if each.live}
    now = [replace(each, holding=each.intercept.uid in held) for each in some]
    known = {each.intercept.uid for each in some}
    now += [replace(each, holding=False) for each in newcomers if each.intercept.uid not in known]
    assert held.isdisjoint(decide(now).losers)


@given(claims)
def test_deciding_again_changes_nothing(some: list[Claim]) -> None:
    """What was decided, once in force, is what is decided next."""
    first = decide(some)
    held = {each.intercept.uid for won in first.winners.values() for each in won if each.live}
    again = decide([replace(each, holding=each.intercept.uid in held) for each in some])
    uids = lambda decision: {p: [c.intercept.uid for c in won] for p, won in decision.winners.items()}  # noqa: E731
    assert uids(again) == uids(first)
    assert again.losers.keys() == first.losers.keys()
