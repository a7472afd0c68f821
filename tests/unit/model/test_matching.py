"""Which requests are a match's."""

import time
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.model.objects import matches
from tproxy.model.match import BaggageMatch, HeaderMatch, Match, MatchKind, PathMatch
from tproxy.model.matching import Chooser, baggage_entries, path_of

Headers = list[tuple[bytes, bytes]]


def holds(match: Match, method: bytes = b"GET", target: bytes = b"/", headers: Headers | None = None) -> bool:
    return Chooser([(match, True)]).choose(method, target, headers or []) is True


ADA = Match((HeaderMatch("x-user", "ada"),))


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([(b"x-user", b"ada")], True),
        ([(b"X-USER", b" ada\t")], True),
        ([(b"x-user", b"bob"), (b"x-other", b"1"), (b"X-User", b"ada")], True),
        ([(b"x-user", b"Ada")], False),
        ([(b"x-user", b"ada, bob")], False),
        ([(b"x-users", b"ada")], False),
        ([], False),
    ],
)
def test_a_header(headers: Headers, expected: bool) -> None:
    assert holds(ADA, headers=headers) is expected


@pytest.mark.parametrize(
    ("value", "expected"), [(b"ada", True), (b"canada", False), ("adé".encode(), True), (b"\xff", False), (b"", False)]
)
def test_a_pattern_is_for_the_whole_value(value: bytes, expected: bool) -> None:
    assert holds(Match((HeaderMatch("x", "ad.", regex=True),)), headers=[(b"x", value)]) is expected


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/", b"/"),
        (b"/a/b?c=/d#e", b"/a/b"),
        (b"/a%2Fb/../c", b"/a%2Fb/../c"),
        (b"//a", b"//a"),
        (b"http://host/a?b", b"/a"),
        (b"http://host", b"/"),
        (b"http://host?a", b"/"),
        (b"*", b"*"),
        (b"host:443", b""),
        (b"", b""),
    ],
)
def test_the_path_of_a_target(target: bytes, path: bytes) -> None:
    assert path_of(target) == path


@pytest.mark.parametrize(
    ("prefix", "path", "expected"),
    [
        ("/a", b"/a", True),
        ("/a", b"/a/", True),
        ("/a", b"/a/b?c", True),
        ("/a", b"/ab", False),
        ("/a/", b"/a", True),
        ("/a/", b"/a/b", True),
        ("/", b"/anything", True),
        ("/", b"*", False),
        ("/", b"host:443", False),
    ],
)
def test_a_prefix_counts_whole_elements(prefix: str, path: bytes, expected: bool) -> None:
    assert holds(Match(path=PathMatch(prefix, MatchKind.PREFIX)), target=path) is expected


def test_paths_and_methods() -> None:
    assert holds(Match(path=PathMatch("/a")), target=b"/a?b")
    assert not holds(Match(path=PathMatch("/a")), target=b"/a/")
    assert holds(Match(path=PathMatch("/v[0-9]/.*", MatchKind.REGEX)), target=b"/v1/x")
    assert not holds(Match(path=PathMatch("/v[0-9]", MatchKind.REGEX)), target=b"/v1/x")
    assert holds(Match(method="POST"), b"POST")
    assert not holds(Match(method="POST"), b"post")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([b"user=ada"], True),
        ([b"a=1 , user = ada ;prop=1;x, b=2"], True),
        ([b"a=1", b"user=ada"], True),
        ([b"user=%61da"], True),
        ([b"User=ada"], False),
        ([b"user=ada%20"], False),
        ([b"xuser=ada"], False),
        ([b"user"], False),
        ([b"a=user=ada"], False),
        ([b"a;user=ada"], False),
        ([b",,;=,"], False),
        ([], False),
    ],
)
def test_baggage(lines: list[bytes], expected: bool) -> None:
    match = Match(baggage=(BaggageMatch("user", "ada"),))
    assert holds(match, headers=[(b"Baggage", line) for line in lines]) is expected


@given(st.lists(st.tuples(st.from_regex("[a-z]{1,5}", fullmatch=True), st.text(max_size=10)), max_size=5))
def test_what_was_put_into_baggage_comes_out(entries: list[tuple[str, str]]) -> None:
    line = ",".join(f"{name}={quote(value)}" for name, value in entries).encode()
    assert list(baggage_entries(line)) == [(name.encode(), value.encode()) for name, value in entries]


def test_all_conditions_have_to_hold() -> None:
    match = Match(ADA.headers, PathMatch("/a"), "GET", (BaggageMatch("k", "v"),))
    headers = [(b"x-user", b"ada"), (b"baggage", b"k=v")]
    assert holds(match, b"GET", b"/a", headers)
    assert not holds(match, b"POST", b"/a", headers)
    assert not holds(match, b"GET", b"/b", headers)
    assert not holds(match, b"GET", b"/a", headers[:1])
    assert not holds(match, b"GET", b"/a", headers[1:])


def test_the_first_that_holds_is_chosen() -> None:
    chooser = Chooser([(Match(ADA.headers, method="GET"), 1), (ADA, 2)])
    ada = [(b"x-user", b"ada")]
    assert chooser.choose(b"GET", b"/", ada) == 1
    assert chooser.choose(b"POST", b"/", ada) == 2
    assert chooser.choose(b"GET", b"/", []) is None
    assert Chooser[int]([]).choose(b"GET", b"/", ada) is None


_words = st.sampled_from(["a", "b", "c"])
_alike = st.builds(
    Match,
    headers=st.lists(st.builds(HeaderMatch, st.sampled_from(["x", "y"]), _words, st.booleans()), max_size=2).map(tuple),
    method=st.just("GET"),
)


@given(
    st.lists(_alike, min_size=5, max_size=12),
    st.lists(st.tuples(st.sampled_from([b"x", b"Y", b"z"]), _words.map(str.encode)), max_size=4),
)
def test_many_are_chosen_from_as_few_are(many: list[Match], headers: Headers) -> None:
    expected = next((n for n, match in enumerate(many) if holds(match, headers=headers)), None)
    assert Chooser([(match, n) for n, match in enumerate(many)]).choose(b"GET", b"/", headers) == expected


@given(matches, st.binary(max_size=20), st.binary(max_size=40), st.lists(st.tuples(st.binary(), st.binary())))
def test_no_request_is_too_odd(match: Match, method: bytes, target: bytes, headers: Headers) -> None:
    assert holds(match, method, target, headers) in (True, False)


def test_a_hostile_header_costs_time_in_proportion() -> None:
    """A backtracking engine would need longer than the universe has."""
    match = Match((HeaderMatch("x", "(a*)*b", regex=True),), baggage=(BaggageMatch("user", "ada"),))
    began = time.monotonic()
    assert not holds(match, headers=[(b"x", b"a" * 100_000), (b"baggage", b"a=1," * 25_000)])
    assert time.monotonic() - began < 5
