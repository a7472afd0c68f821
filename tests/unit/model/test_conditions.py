"""What people write for the requests they want."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tproxy.errors import InvalidError
from tproxy.model.conditions import AUTO_HEADER, parse_conditions
from tproxy.model.match import BaggageMatch, HeaderMatch, Match, MatchKind, PathMatch


@pytest.mark.parametrize(
    ("text", "header"),
    [
        ("x-user=ada", HeaderMatch("x-user", "ada")),
        ("X-User: ada", HeaderMatch("x-user", "ada")),
        ("X-User:ada", HeaderMatch("x-user", "ada")),
        ("x-user=~a.*", HeaderMatch("x-user", "a.*", regex=True)),
        ("x-user: ~a.*", HeaderMatch("x-user", "~a.*")),
        ("x-time=12:30", HeaderMatch("x-time", "12:30")),
        ("x-query: a=b", HeaderMatch("x-query", "a=b")),
        ("x-pad==", HeaderMatch("x-pad", "=")),
        ("x-name= Ada Lovelace ", HeaderMatch("x-name", "Ada Lovelace")),
    ],
)
def test_headers(text: str, header: HeaderMatch) -> None:
    assert parse_conditions([text]).match == Match((header,))


def test_all_of_them_together() -> None:
    asked = parse_conditions(["a=1", "b: 2"], ["user=ada"], path_prefix="/api", method="post")
    assert asked.match == Match(
        (HeaderMatch("a", "1"), HeaderMatch("b", "2")),
        PathMatch("/api", MatchKind.PREFIX),
        "POST",
        (BaggageMatch("user", "ada"),),
    )
    assert not asked.fresh
    assert parse_conditions().match is None


def test_auto_makes_a_header_that_nobody_else_has() -> None:
    asked = parse_conditions(["auto", "a=1"])
    one, other = asked.with_header(), asked.with_header()
    assert one is not None
    assert other is not None
    assert one != other
    assert HeaderMatch("a", "1") in one.headers
    [value] = [header.value for header in one.headers if header.name == AUTO_HEADER]
    assert re.fullmatch("[0-9a-f]{8}", value)
    assert asked.with_header("00ff") == Match((HeaderMatch("a", "1"), HeaderMatch(AUTO_HEADER, "00ff")))
    assert parse_conditions(["auto"]).with_header("1") == Match((HeaderMatch(AUTO_HEADER, "1"),))
    assert parse_conditions(["a=1"]).with_header() == Match((HeaderMatch("a", "1"),))


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"headers": ["x-user"]}, "'x-user' is not a condition on a header"),
        ({"headers": ["x user=1"]}, "'x user=1' is not a condition on a header"),
        ({"headers": ["=1"]}, "'=1' is not a condition on a header"),
        ({"headers": ["x="]}, "--http-header x has no value"),
        ({"headers": ["x:"]}, "--http-header x has no value"),
        ({"headers": ["x=~"]}, "--http-header x has no value"),
        ({"headers": ["x=a\r\nb"]}, "has characters that cannot be in a request"),
        ({"headers": ["x=" + "a" * 1025]}, "longer than 1024 characters"),
        ({"headers": ["x=~("]}, "'(' is not a regular expression: missing )"),
        ({"headers": ["x=~(a{1000}){1000}"]}, "is not a regular expression"),
        ({"headers": [f"x{n}=1" for n in range(17)]}, "more than 16 conditions"),
        ({"headers": ["auto", f"{AUTO_HEADER}=1"]}, "which you give as well"),
        ({"baggage": ["user: ada"]}, "'user: ada' is not a condition on an entry of the baggage header"),
        ({"baggage": ["user="]}, "--http-baggage user has no value"),
        ({"path": "api"}, "'api' is not a path"),
        ({"path": "/a?b=1"}, "it begins with / and has no query"),
        ({"path": "/a", "path_regex": "/b"}, "a request has one path"),
        ({"path_regex": "[", "method": "GET"}, "is not a regular expression"),
        ({"method": "G T"}, "'G T' is not an HTTP method"),
    ],
)
def test_what_cannot_be_meant(flags: dict[str, list[str]], sentence: str) -> None:
    with pytest.raises(InvalidError) as raised:
        parse_conditions(**flags)  # type: ignore[arg-type]
    assert sentence in raised.value.message
    assert raised.value.hint


_texts = st.lists(st.text(max_size=20), max_size=3)


@given(_texts, _texts, st.tuples(*[st.text(max_size=10)] * 4))
def test_anything_is_read_or_refused(headers: list[str], baggage: list[str], texts: tuple[str, str, str, str]) -> None:
    try:
        asked = parse_conditions(headers, baggage, *texts)
    except InvalidError:
        return
    assert asked.match is None or asked.match.conditions
