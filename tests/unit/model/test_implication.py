"""When all requests of one match are another's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.model.objects import matches
from tproxy.model.implication import implies
from tproxy.model.match import BaggageMatch, HeaderMatch, Match, MatchKind, PathMatch
from tproxy.model.matching import Chooser

EXACT, PREFIX, REGEX = MatchKind.EXACT, MatchKind.PREFIX, MatchKind.REGEX


def header(value: str, regex: bool = False, name: str = "x") -> Match:
    return Match((HeaderMatch(name, value, regex),))


def path(value: str, kind: MatchKind = EXACT) -> Match:
    return Match(path=PathMatch(value, kind))


def entry(value: str, regex: bool = False) -> Match:
    return Match(baggage=(BaggageMatch("user", value, regex),))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (header("1"), header("1")),
        (header("1", regex=True), header("1", regex=True)),
        (header("ada"), header("a.*", regex=True)),
        (Match((HeaderMatch("x", "1"), HeaderMatch("y", "2"))), header("1")),
        (Match((HeaderMatch("x", "1"),), method="GET"), Match(method="GET")),
        (path("/a"), path("/a", PREFIX)),
        (path("/a/b"), path("/a", PREFIX)),
        (path("/a/b", PREFIX), path("/a", PREFIX)),
        (path("/a", PREFIX), path("/a/", PREFIX)),
        (path("/a/", PREFIX), path("/a", PREFIX)),
        (path("/a", PREFIX), path("/", PREFIX)),
        (path("/v1"), path("/v[0-9]", REGEX)),
        (entry("ada"), entry("ada")),
        (entry("ada"), entry("a.*", regex=True)),
        (header("a=1,user=%61da;p", name="baggage"), entry("ada")),
    ],
)
def test_implied(one: Match, other: Match) -> None:
    assert implies(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (header("1"), header("2")),
        (header("1"), header("1", name="y")),
        (header("1", regex=True), header("1")),
        (header("1", regex=True), header("1|2", regex=True)),  # it is, but that is not seen
        (header("1"), Match((HeaderMatch("x", "1"), HeaderMatch("y", "2")))),
        (path("/ab"), path("/a", PREFIX)),
        (path("/ab", PREFIX), path("/a", PREFIX)),
        (path("/a", PREFIX), path("/a")),
        (path("/a", PREFIX), path("/a/b", PREFIX)),
        (path("/.*", REGEX), path("/", PREFIX)),
        (Match(method="GET"), Match(method="POST")),
        (header("user=ada", regex=True, name="baggage"), entry("ada")),
        (entry("ada"), entry("bob")),
    ],
)
def test_not_implied(one: Match, other: Match) -> None:
    assert not implies(one, other)


_few = st.sampled_from(["a", "b", "/a", "/a/b", "/", "/a/", "user=a", "a*", "/a.*"])
_headers = st.builds(HeaderMatch, st.sampled_from(["x", "baggage"]), _few, st.booleans())
_entries = st.builds(BaggageMatch, st.just("user"), _few, st.booleans())
_paths = st.builds(PathMatch, _few, st.sampled_from(MatchKind))
_similar = st.builds(
    Match,
    headers=st.lists(_headers, max_size=2).map(tuple),
    path=st.none() | _paths,
    method=st.just("GET"),
    baggage=st.lists(_entries, max_size=1).map(tuple),
)
_requests = st.tuples(
    st.just(b"GET"),
    st.sampled_from([b"/", b"/a", b"/a/b", b"/a/", b"/a/b/c", b"/ab", b"a", b"b", b"*", b"h:1"]),
    st.lists(
        st.tuples(
            st.sampled_from([b"x", b"baggage"]), st.sampled_from([b"a", b"b", b"aa", b"/a", b"user=a", b"user=/a,x=1"])
        ),
        max_size=4,
    ),
)


@given(_similar, _similar, st.lists(_requests, max_size=20))
def test_it_is_sound(one: Match, other: Match, requests: list[tuple[bytes, bytes, list[tuple[bytes, bytes]]]]) -> None:
    if implies(one, other):
        first, second = Chooser([(one, True)]), Chooser([(other, True)])
        for request in requests:
            assert second.choose(*request) or not first.choose(*request)


@given(matches, matches, matches)
def test_it_is_an_order(one: Match, two: Match, three: Match) -> None:
    assert implies(one, one)
    joined = Match((*one.headers, *two.headers), one.path, one.method, (*one.baggage, *two.baggage))
    assert implies(joined, one)
    if implies(one, two) and implies(two, three):
        assert implies(one, three)
