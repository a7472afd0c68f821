"""What is taken for plain at a glance is what the longer way comes to as well."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.http.corpus import ANSWERS, BODILESS, MESSAGES
from tproxy.http.answers import Answers
from tproxy.http.exchange import PLAIN, Exchange
from tproxy.http.framing import StrangeError
from tproxy.http.head import RequestReader
from tproxy.http.plain import PlainMessages

LINE_ENDS = b"\r\n"
"""Too many of them behind a message are nobody's mistake to care about: they stay with it."""

NAMES = frozenset((b"x-user", b"user-agent"))
SMALL = [message.data for message in MESSAGES if len(message.data) < 4000]
FIELDS = (
    *(b"X-User: ada", b"x-USER:ada", b"X-User : ada", b" X-User: ada", b"A: b\nX-User: ada", b"A: b\rX-User: ada"),
    *(b"Content-Length: 0", b"Content-Length: 2", b"content-length:2", b"Content-Length: +2", b"Content-Length: 2, 2"),
    *(b"Transfer-Encoding: chunked", b"transfer-encoding:identity", b"Transfer-Encoding : chunked"),
    *(b"Connection: keep-alive", b"Connection: close", b"connection: keep-alive, close", b"Connection:keep-alive"),
    *(b"Upgrade: h2c", b"Expect: 100-continue", b"Host: shop", b"A:", b"", b"\0", b"a b: c", b"\xff: \xff"),
)
LINES = (
    *(b"GET / HTTP/1.1", b"POST / HTTP/1.1", b"HEAD / HTTP/1.1", b"GET / HTTP/1.0", b"GET  / HTTP/1.1"),
    *(
        b"OPTIONS * HTTP/1.1",
        b"CONNECT a:1 HTTP/1.1",
        b"GET http://a/ HTTP/1.1",
        b"get / HTTP/1.1",
        b"GET /\xff HTTP/1.1",
    ),
)
CODED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
CODED_AND_MORE = CODED.replace(b"chunked\r\n", b"chunked\r\nServer: nginx\r\n")
STATUSES = (
    b"HTTP/1.1 200 OK",
    b"HTTP/1.1 204 N",
    b"HTTP/1.1 304 N",
    b"HTTP/1.1 100 C",
    b"HTTP/1.1 101 S",
    b"HTTP/1.0 200 OK",
)


def messages(lines: tuple[bytes, ...]) -> st.SearchStrategy[bytes]:
    ends = st.sampled_from((b"\r\n", b"\r\n", b"\r\n", b"\n"))
    field = st.tuples(st.sampled_from(FIELDS), ends).map(b"".join)
    bodies = st.sampled_from((b"", b"ok", b"o", b"ok!", b"2\r\nok\r\n0\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\r\n"))
    return st.builds(
        lambda line, fields, end, body: line + b"\r\n" + b"".join(fields) + end + body,
        st.sampled_from(lines),
        st.lists(field, max_size=4),
        ends,
        bodies,
    )


def damaged(whole: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.one_of(
        whole,
        st.builds(
            lambda data, at, put: data[: at % (len(data) + 1)] + put + data[at:],
            whole,
            st.integers(0, 300),
            st.binary(max_size=3),
        ),
        st.builds(lambda one, other: one + other, whole, whole),
    )


def longer_way(data: bytes) -> None:
    """Fails unless `data` is exactly one request that nobody in particular is meant by, and another may follow it."""
    head, end, body = data.partition(b"\r\n\r\n")
    request = RequestReader().read(head + end, NAMES)
    assert not {name for name, _ in request.fields} & NAMES
    assert request.persistent
    assert not request.upgrade
    assert not request.expects
    stop = 0
    if request.body is not None:
        stop = request.body.take(body, 0)
        assert request.body.done
    assert not body[stop:].strip(LINE_ENDS)


@settings(max_examples=1000, deadline=None)
@given(st.lists(damaged(st.one_of(messages(LINES), st.sampled_from(SMALL))), min_size=1, max_size=3))
def test_what_is_plain_is_what_it_seems(said: list[bytes]) -> None:
    """Also behind something that was not plain, on the same connection."""
    plain = PlainMessages()
    for data in said:
        if plain.request(data, NAMES):
            try:
                longer_way(data)
            except StrangeError as error:
                raise AssertionError(f"{data!r} is strange: {error}") from None


@settings(max_examples=1000, deadline=None)
@given(st.lists(damaged(st.one_of(messages(STATUSES), st.sampled_from([*ANSWERS, *BODILESS]))), min_size=1, max_size=3))
def test_an_answer_that_is_plain_ends_where_it_seems_to(said: list[bytes]) -> None:
    plain = PlainMessages()
    for data in said:
        if status := plain.answer(data):
            answered: list[Exchange] = []
            answers = Answers(answered.append)
            exchange = Exchange(PLAIN, 0)
            answers.pending.append(exchange)
            stop = answers.read(data)
            assert not data[stop:].strip(LINE_ENDS)
            assert answered == [exchange]
            assert exchange.status == status


@pytest.mark.parametrize("before", [b"\r", b"\n", b"\r\n"])
def test_line_ends_before_an_answer_are_not_plain(before: bytes) -> None:
    plain = PlainMessages()
    assert plain.answer(before + ANSWERS[0]) == 0
    assert plain.answer(ANSWERS[0]) == 200


@pytest.mark.parametrize("answer", [ANSWERS[0], ANSWERS[1], CODED, CODED_AND_MORE])
def test_what_is_ordinary_is_plain(answer: bytes) -> None:
    plain = PlainMessages()
    for _ in range(3):
        assert plain.request(b"GET /a?b HTTP/1.1\r\nHost: shop\r\nConnection: keep-alive\r\n\r\n", NAMES)
        assert plain.answer(answer) == 200
        assert plain.request(b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nok", NAMES)
        assert plain.answer(answer) == 200
