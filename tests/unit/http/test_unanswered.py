"""What a client is still waiting for when its laptop goes."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.http.corpus import ANSWERS, MESSAGES
from tproxy.http.exchange import MAX_KEPT, Remedy
from tproxy.http.unanswered import Unanswered

GET = b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: shop\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nok"
LAST = b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n"
UPGRADE = b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
GO_ON = b"HTTP/1.1 100 Continue\r\n\r\n"
APP, ERROR = Remedy.APP, Remedy.ERROR


def said(*turns: bytes) -> Unanswered:
    """The client begins; answers begin like answers."""
    followed = Unanswered()
    for turn in turns:
        if turn.startswith((b"HTTP/", b"ok")):
            followed.answered(memoryview(turn))
        else:
            followed.asked(turn)
    return followed


@pytest.mark.parametrize(
    ("turns", "remedy", "data"),
    [
        ((), APP, b""),
        ((GET,), APP, GET),
        ((GET[:10], GET[10:]), APP, GET),
        ((GET[:10],), APP, GET[:10]),
        ((GET, OK), APP, b""),
        ((GET, OK[:-2], OK[-2:]), APP, b""),
        ((GET, OK, GET), APP, GET),
        ((GET, GO_ON + OK, GET), APP, GET),
        ((HEAD,), APP, HEAD),
        ((HEAD, OK[:-2], GET), APP, GET),
        ((LAST,), APP, LAST),
        ((UPGRADE,), APP, UPGRADE),
        ((GET + GET,), APP, GET + GET),
        ((GET, GET), APP, GET + GET),
        ((POST,), ERROR, POST),
        ((POST[:-1],), ERROR, POST[:-1]),
        ((GET + POST,), ERROR, GET + POST),
        ((POST, OK), APP, b""),
        ((POST, OK, POST, OK[:-2], OK[-2:], GET), APP, GET),
    ],
)
def test_what_can_be_done(turns: tuple[bytes, ...], remedy: Remedy, data: bytes) -> None:
    followed = said(*turns)
    assert (followed.remedy("fallback"), followed.data) == (remedy, data)
    assert followed.remedy("fail") is (ERROR if b"\r\n\r\n" in data else None)


@pytest.mark.parametrize(
    "turns",
    [
        (GET, OK[:5]),
        (GET, OK[:-1]),
        (POST, GO_ON),
        (GET, b"HTTP/1.1 200 OK\r\n\r\nuntil the end"),
        (GET, OK[:-1], GET),
        (GET + GET, OK),
        (GET, OK + OK),
        (UPGRADE, SWITCHED),
        (UPGRADE, SWITCHED, GET),
        (OK,),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",),
        (b"\x16\x03\x01\x02\x00\x01",),
        (b"*1\r\n$4\r\nPING\r\n",),
        (GET, OK, b"hello\r\n\r\n"),
    ],
)
def test_where_nothing_can_be_done(turns: tuple[bytes, ...]) -> None:
    assert said(*turns).remedy("fallback") is None


def test_a_long_request_is_not_kept() -> None:
    body = bytes(MAX_KEPT)
    options = b"OPTIONS / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (len(body) + 2)
    followed = said(options, body)
    assert followed.remedy("fallback") is ERROR
    assert followed.data == b""
    followed.asked(b"ok")
    followed.answered(OK)
    followed.asked(GET)
    assert (followed.remedy("fallback"), followed.data) == (APP, GET)


REQUESTS = [message.data for message in MESSAGES if message.answer and b"clined" not in message.name.encode()]
REQUESTS = [data for data in REQUESTS if len(data) <= MAX_KEPT and not data.startswith((b"HEAD", b"CONNECT"))]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(REQUESTS), st.sampled_from(ANSWERS)), min_size=1, max_size=5),
    st.randoms(use_true_random=False),
)
def test_requests_one_after_the_other_in_any_pieces(turns: list[tuple[bytes, bytes]], chance: random.Random) -> None:
    followed = Unanswered()
    for request, answer in turns:
        for data, tell in ((request, followed.asked), (answer, followed.answered)):
            at = 0
            while at < len(data):
                size = chance.choice((1, 7, 100, 5000, 1 << 20)) if len(data) < 2000 else chance.choice((5000, 1 << 20))
                tell(data[at : at + size])
                at += size
                if tell == followed.asked:
                    assert followed.data == request[:at]
                elif at < len(data):
                    assert followed.remedy("fallback") is None
        assert not followed.lost
        assert (followed.remedy("fallback"), followed.data) == (APP, b"")


@settings(max_examples=500, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from([*REQUESTS[:20], *ANSWERS]) | st.binary(max_size=30))))
def test_nothing_that_is_said_breaks_it(turns: list[tuple[bool, bytes]]) -> None:
    followed = Unanswered()
    for client, data in turns:
        (followed.asked if client else followed.answered)(data)
        assert len(followed.data) <= MAX_KEPT
        assert followed.remedy("fallback") in (None, APP, ERROR)
