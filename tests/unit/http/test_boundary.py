"""Where messages end, however their bytes arrive."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tproxy.http.boundary import Exchanges, begins_request, is_whole, says_last

SIMPLE = b"GET / HTTP/1.1\r\nHost: web\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: web\r\nContent-Length: 5\r\n\r\nGET /"
CHUNKED = b"PUT /b HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nSum: 1\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: web\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes"
PAIRS = (
    (SIMPLE, OK),
    (POST, b"HTTP/1.1 100 Continue\r\n\r\n" + OK),
    (CHUNKED, b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
    (HEAD, b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n"),
    (SIMPLE, b"HTTP/1.1 304 Not Modified\r\n\r\n"),
    (SIMPLE, b"HTTP/1.1 204 No Content\r\n\r\n"),
)


@pytest.mark.parametrize(
    "data",
    [
        SIMPLE,
        POST,
        HEAD,
        SIMPLE[:16],
        SIMPLE[:18],
        b"DELETE * HTTP/1.0\n\n",
        b"OPTIONS http://a/ HTTP/1.1\r\nX-Y_z: 1\r\n",
    ],
)
def test_beginnings(data: bytes) -> None:
    assert begins_request(data)
    assert begins_request(bytearray(data))


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"GET", SIMPLE[:14], b"get / HTTP/1.1\r\n", b"GET / HTTP/2.0\r\n", b"GET / HTTP/1.1\r\nno header\r\n"),
        *(b"GET  / HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"OPTIONS rtsp://x RTSP/1.0\r\n"),
        *(b"\x81\x85abcdhello", b"\x16\x03\x01\x02\x00", b"SELECT * FROM HTTP\n", OK),
    ],
)
def test_no_beginnings(data: bytes) -> None:
    assert not begins_request(data)


@given(data=st.binary(max_size=200))
def test_nothing_is_too_strange(data: bytes) -> None:
    begins_request(data)
    exchanges = Exchanges()
    exchanges.requested(data)
    exchanges.answered(data)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    ends = sorted({min(one, len(data)) for one in cuts} | {len(data)})
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@given(
    pairs=st.lists(st.sampled_from(PAIRS), min_size=1, max_size=4),
    cuts=st.lists(st.integers(0, 200), max_size=6),
    pipelined=st.booleans(),
)
def test_between_is_where_everything_is_answered_and_nowhere_else(
    pairs: list[tuple[bytes, bytes]], cuts: list[int], pipelined: bool
) -> None:
    exchanges = Exchanges()
    rounds = [(b"".join(one for one, _ in pairs), b"".join(one for _, one in pairs))] if pipelined else pairs
    for request, answer in rounds:
        assert exchanges.between
        for piece in cut(request, cuts):
            exchanges.requested(piece)
            assert not (piece and exchanges.between)
        pieces = [piece for piece in cut(answer, cuts) if piece]
        for number, piece in enumerate(pieces):
            assert not exchanges.between, number
            exchanges.answered(piece)
    assert exchanges.between
    assert not exchanges.lost


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (SIMPLE, b"HTTP/1.1 200 OK\r\n\r\nuntil it closes"),
        (SIMPLE, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"),
        (SIMPLE, OK + OK),
        (b"", b"220 mail.example ESMTP\r\n\r\n"),
        (b"\x00\x01\r\n\r\n", b""),
        (POST.replace(b"Content", b"Transfer-Encoding: chunked\r\nContent"), b""),
        (SIMPLE, b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n"),
    ],
)
def test_what_has_no_end_that_one_could_see_is_never_between(request_: bytes, answer: bytes) -> None:
    exchanges = Exchanges()
    exchanges.requested(request_)
    exchanges.answered(answer)
    assert not exchanges.between
    exchanges.requested(SIMPLE)
    exchanges.answered(OK)
    assert not exchanges.between


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"", b"Connection: close\r\n"),
        (b"A: b\r\nconnection: Keep-Alive\r\nKeep-Alive: timeout=5\r\n", b"A: b\r\nConnection: close\r\n"),
        (b"Connection: close\r\nA: b\r\n", b"A: b\r\nConnection: close\r\n"),
        (b"Connection: x-hop, keep-alive\r\nX-Hop: 1\r\n", b"Connection: x-hop\r\nX-Hop: 1\r\nConnection: close\r\n"),
    ],
)
def test_heads_that_say_so(head: bytes, expected: bytes) -> None:
    assert says_last(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n") == b"HTTP/1.1 200 OK\r\n" + expected + b"\r\n"


@given(pair=st.sampled_from(PAIRS), cuts=st.lists(st.integers(0, 200), max_size=4))
def test_the_answer_to_a_client_that_waits_is_the_last(pair: tuple[bytes, bytes], cuts: list[int]) -> None:
    """Whatever its pieces; where its head comes in several, it is as it was."""
    exchanges = Exchanges(ending=True)
    request, answer = pair
    exchanges.requested(request)
    passed = b"".join(exchanges.answered(piece) for piece in cut(answer, cuts))
    assert exchanges.between
    interim = answer.find(b"HTTP/1.1", 1) if b" 100 " in answer else 0
    head, end, body = answer[interim:].partition(b"\r\n\r\n")
    marked = answer[:interim] + head + b"\r\nConnection: close" + end + body
    assert passed == (marked if exchanges.last else answer)
    if not any(interim < one < len(answer) - len(body) for one in cuts):
        assert exchanges.last


def test_where_more_is_asked_for_or_nothing_is_known_answers_stay_as_they_are() -> None:
    for asked, answer in (
        (SIMPLE + SIMPLE, OK),
        (SIMPLE + SIMPLE[:5], OK),
        (POST[:-2], OK),
        (SIMPLE, OK + OK),
        (SIMPLE, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"),
        (SIMPLE, b"HTTP/1.1 200 OK\r\nX-A: b\r\n c\r\nContent-Length: 0\r\n\r\n"),
        (b"", b"220 mail.example ESMTP\r\n\r\n"),
    ):
        exchanges = Exchanges(ending=True)
        exchanges.requested(asked)
        assert exchanges.answered(answer) == answer
        assert not exchanges.last


@pytest.mark.parametrize("data", [SIMPLE, POST, HEAD, SIMPLE + b"more", POST.replace(b"Length: ", b"length:\t")])
def test_whole_requests(data: bytes) -> None:
    assert is_whole(data)
    assert is_whole(bytearray(data))


@pytest.mark.parametrize(
    "data",
    [
        *(SIMPLE[:-1], POST[:-1], CHUNKED, b"", POST.replace(b": 5", b": +5")),
        POST.replace(b": 5", b": 5\r\nContent-Length: 5"),
    ],
)
def test_what_may_not_be_whole(data: bytes) -> None:
    assert not is_whole(data)
