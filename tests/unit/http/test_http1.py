"""The HTTP/1 router, as traces."""

import pytest

from tests.unit.http.hop import Talk
from tproxy.http.port import Outcome
from tproxy.model.flow import ResetReason

PLAIN = b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n"
ADAS = b"GET /a HTTP/1.1\r\nHost: shop\r\nX-User: ada\r\n\r\n"
EVES = b"GET /e HTTP/1.1\r\nX-USER:eve \r\n\r\n"
FAYS = b"GET /f HTTP/1.1\r\nx-user: fay\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nX-User: ada\r\nContent-Length: 5\r\n\r\nhello"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
YES = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nyes\r\n0\r\n\r\n"


def test_others_requests_go_to_the_app_and_its_answers_back() -> None:
    talk = Talk().say(PLAIN).app(OK).say(PLAIN).app(OK)
    assert talk.hop.default.data == PLAIN * 2
    assert talk.client.data == OK * 2
    assert talk.outcomes == [Outcome.PASSED] * 2
    assert not talk.hop.laptops


def test_each_request_goes_where_it_belongs() -> None:
    talk = Talk().say(PLAIN).app(OK).say(ADAS).laptop(YES).say(EVES).laptop(OK).say(PLAIN).app(YES)
    assert talk.hop.default.data == PLAIN * 2
    assert [laptop.data for laptop in talk.hop.laptops] == [ADAS, EVES]
    assert [laptop.events for laptop in talk.hop.laptops] == [["release"]] * 2
    assert talk.client.data == OK + YES + OK + YES
    assert talk.outcomes == [Outcome.PASSED, Outcome.MATCHED, Outcome.MATCHED, Outcome.PASSED]


def test_pipelined_requests_are_answered_in_order() -> None:
    talk = Talk().say(PLAIN + PLAIN + ADAS + PLAIN)
    assert talk.hop.default.data == PLAIN * 2
    assert not talk.hop.laptops
    talk.app(OK)
    assert not talk.hop.laptops
    talk.app(YES)
    assert talk.hop.laptops[0].data == ADAS
    assert talk.hop.default.data == PLAIN * 2
    talk.laptop(YES)
    assert talk.hop.default.data == PLAIN * 3
    talk.app(OK)
    assert talk.client.data == OK + YES + YES + OK


def test_an_app_that_is_down_is_no_obstacle_to_a_laptop() -> None:
    talk = Talk().say(ADAS)
    talk.lose(talk.hop.default, ResetReason.REFUSED)
    talk.laptop(OK)
    assert talk.client.data == OK
    assert not talk.client.events
    talk.say(PLAIN)
    assert talk.hop.apps[1].data == PLAIN  # it may be back
    talk.lose(talk.hop.default, ResetReason.REFUSED)
    assert talk.client.events == ["reset"]


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS"])
def test_a_safe_request_is_repeated_when_the_laptop_goes(method: bytes) -> None:
    request = ADAS.replace(b"GET", method)
    talk = Talk().say(request)
    talk.lose(talk.hop.laptops[0], ResetReason.TUNNEL_LOST)
    assert talk.hop.default.data == request
    talk.app(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert talk.hop.records == [(Outcome.FALLBACK, "uid-ada", 204)]


def test_another_gets_an_answer_that_says_why() -> None:
    talk = Talk().say(POST)
    talk.lose(talk.hop.laptops[0], ResetReason.TUNNEL_LOST, "silent for 6 s")
    assert talk.hop.default.data == b""
    head, _, body = talk.client.data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 502 ")
    assert b"\r\ntproxy-error: laptop-gone" in head
    assert body == (
        b"tproxy: the laptop adas-laptop is not connected (silent for 6 s); "
        b"the request is for the intercept shop/web-ada\n"
    )
    talk.client.data = b""
    talk.say(PLAIN).app(OK)  # the connection goes on
    assert talk.client.data == OK
    assert talk.hop.records == [(Outcome.FAILED, "uid-ada", 502), (Outcome.PASSED, "", 200)]


def test_fail_means_no_fallback() -> None:
    talk = Talk().say(FAYS)
    talk.lose(talk.hop.laptops[0], ResetReason.TUNNEL_LOST)
    assert talk.hop.default.data == b""
    assert talk.client.data.startswith(b"HTTP/1.1 502 ")


def test_a_local_app_that_is_down_is_named() -> None:
    talk = Talk().say(ADAS)
    talk.lose(talk.hop.laptops[0], ResetReason.REFUSED, "the local app at port 3000: Connection refused")
    assert talk.hop.default.data == b""
    assert b"the laptop adas-laptop cannot reach the local app at port 3000: Connection refused" in talk.client.data


def test_or_the_app_stands_in_for_it() -> None:
    post = POST.replace(b"ada", b"eve")
    talk = Talk().say(post)
    talk.lose(talk.hop.laptops[0], ResetReason.REFUSED, "down")
    assert talk.hop.default.data == post
