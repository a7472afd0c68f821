"""The HTTP/1 router, as traces."""

import pytest

from tests.unit.http.hop import Talk
from tproxy.http.matcher import Rules
from tproxy.model.figures import Outcome
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


def test_an_app_that_refuses_when_a_laptop_has_answered_already() -> None:
    talk = Talk().say(ADAS).laptop(OK)
    talk.lose(talk.hop.default, ResetReason.REFUSED)
    assert not talk.client.events
    talk.say(ADAS[:20])
    talk.timeout()  # shown to one that may be back
    assert talk.hop.apps[1].data == ADAS[:20]
    talk.lose(talk.hop.default, ResetReason.REFUSED)
    assert talk.client.events == ["reset"]


def test_an_app_that_ends_an_idle_connection_ends_it() -> None:
    talk = Talk().say(PLAIN).app(OK)
    talk.lose(talk.hop.default)
    assert talk.client.events == ["reset"]


def test_a_default_upstream_that_was_a_laptop_and_is_lost_is_replaced() -> None:
    talk = Talk().say(PLAIN)
    talk.hop.rescued = (PLAIN,)
    talk.router.client_pause()
    talk.lose(talk.hop.default, ResetReason.TUNNEL_LOST)
    assert talk.hop.apps[1].data == PLAIN
    assert talk.hop.apps[1].paused
    talk.app(OK).say(PLAIN).app(OK)
    assert talk.hop.apps[1].data == PLAIN * 2
    assert talk.client.data == OK * 2
    assert not talk.client.events


def test_or_its_client_is_told() -> None:
    talk = Talk().say(POST.replace(b"X-User: ada\r\n", b""))
    talk.hop.rescued = b"HTTP/1.1 502 Bad Gateway\r\n\r\nwhy"
    talk.lose(talk.hop.default, ResetReason.TUNNEL_LOST)
    assert talk.client.data == talk.hop.rescued
    assert talk.client.events == ["eof"]
    lost = Talk().say(PLAIN)
    lost.lose(lost.hop.default, ResetReason.TUNNEL_LOST)
    assert lost.client.events == ["reset"]


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
        b"tproxy: the laptop is not connected: silent for 6 s (laptop adas-laptop, intercept shop/web-ada)\n"
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
    assert b"cannot reach the local app at port 3000: Connection refused (laptop adas-laptop, " in talk.client.data


def test_or_the_app_stands_in_for_it() -> None:
    post = POST.replace(b"ada", b"eve")
    talk = Talk().say(post)
    talk.lose(talk.hop.laptops[0], ResetReason.REFUSED, "down")
    assert talk.hop.default.data == post


UPGRADE = b"GET /ws HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


def test_an_upgrade_of_everybodys_is_between_client_and_app() -> None:
    talk = Talk().say(PLAIN).app(OK).say(UPGRADE).app(SWITCHING + b"\x81\x02hi")
    assert talk.hop.spliced is talk.hop.default
    assert talk.client.data == OK + SWITCHING + b"\x81\x02hi"
    assert talk.hop.default.data == PLAIN + UPGRADE


def test_an_upgrade_for_a_laptop_is_between_client_and_laptop() -> None:
    request = UPGRADE.replace(b"\r\n\r\n", b"\r\nX-User: ada\r\n\r\n")
    talk = Talk().say(request).laptop(SWITCHING + b"\x81\x02hi").say(b"\x81\x80abcd")
    assert talk.hop.spliced is talk.hop.laptops[0]
    assert talk.hop.laptops[0].data == request + b"\x81\x80abcd"
    assert talk.client.data == SWITCHING + b"\x81\x02hi"
    assert talk.hop.default.data == b""
    assert talk.hop.records == [(Outcome.MATCHED, "uid-ada", 101)]


def test_what_comes_behind_an_upgrade_waits_for_its_answer() -> None:
    talk = Talk().say(UPGRADE + ADAS)
    assert not talk.hop.laptops
    talk.app(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").laptop(OK)
    assert talk.hop.laptops[0].data == ADAS


@pytest.mark.parametrize("user", ["", "ada"])
def test_a_tunnel_by_connect(user: str) -> None:
    request = b"CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\nX-User: %s\r\n\r\n" % user.encode()
    talk = Talk().say(request)
    upstream = talk.hop.laptops[0] if user else talk.hop.default
    talk.answer(upstream, b"HTTP/1.1 200 OK\r\n\r\nhello")
    assert talk.hop.spliced is upstream
    assert talk.client.data == b"HTTP/1.1 200 OK\r\n\r\nhello"


def test_an_offer_of_http2_is_not_passed_on_to_a_laptop() -> None:
    """Else the laptop would get everything that follows on the connection."""
    request = (
        b"GET / HTTP/1.1\r\nX-User: ada\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
    )
    talk = Talk().say(request)
    assert talk.hop.laptops[0].data == (b"GET / HTTP/1.1\r\nX-User: ada\r\nConnection: Upgrade, HTTP2-Settings\r\n\r\n")
    talk.laptop(OK).say(PLAIN).app(OK)
    assert talk.client.data == OK + OK


def test_the_app_speaks_out_of_turn() -> None:
    """As servers do to idle connections: it is passed on, and nobody looks at the rest."""
    late = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n"
    talk = Talk().say(PLAIN).app(OK).app(late)
    assert talk.client.data == OK + late
    assert talk.hop.spliced is talk.hop.default


def test_but_never_into_the_answer_of_a_laptop() -> None:
    talk = Talk().say(ADAS)
    talk.app(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    talk.laptop(OK)
    assert talk.client.data == OK
    talk.say(PLAIN)
    assert [app.data for app in talk.hop.apps] == [b"", PLAIN]


def test_an_app_that_closes_meanwhile_is_connected_anew() -> None:
    talk = Talk().say(ADAS)
    talk.router.upstream_eof(talk.hop.default)
    talk.laptop(OK).say(PLAIN)
    assert not talk.client.events
    assert talk.hop.apps[1].data == PLAIN


def test_a_close_is_a_close() -> None:
    for closing in (
        ADAS.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
        ADAS.replace(b"HTTP/1.1", b"HTTP/1.0"),
    ):
        talk = Talk().say(closing).laptop(OK)
        assert talk.client.data == OK
        assert talk.client.events == ["eof"]
        assert talk.hop.laptops[0].events == ["close"]
        talk.say(PLAIN)
        assert talk.hop.default.data == b""
        talk.timeout()
        assert talk.client.events == ["eof", "close"]


def test_an_answer_that_ends_with_its_connection_ends_the_clients() -> None:
    talk = Talk().say(ADAS).laptop(b"HTTP/1.1 200 OK\r\n\r\nuntil", b" the end")
    talk.router.upstream_eof(talk.hop.laptops[0])
    assert talk.client.data.endswith(b"until the end")
    assert talk.client.events == ["eof"]
    assert talk.outcomes == [Outcome.MATCHED]


def test_an_answer_that_breaks_off_breaks_off() -> None:
    talk = Talk().say(ADAS).laptop(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    talk.router.upstream_eof(talk.hop.laptops[0])
    assert talk.client.events == ["eof"]
    assert talk.outcomes == [Outcome.FAILED]
    talk = Talk().say(ADAS).laptop(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    talk.lose(talk.hop.laptops[0], ResetReason.TUNNEL_LOST)
    assert talk.client.events == ["reset"]
    assert talk.hop.default.data == b""


def test_an_early_answer() -> None:
    """The laptop has answered before it has the whole request, which it gets all the same."""
    talk = Talk().say(POST[:-3]).laptop(OK)
    assert talk.client.data == OK
    talk.say(POST[-3:] + EVES)
    assert [laptop.data for laptop in talk.hop.laptops] == [POST, EVES]


def test_an_early_answer_and_then_nothing_more() -> None:
    talk = Talk().say(POST[:-3]).laptop(OK)
    talk.lose(talk.hop.laptops[0])
    assert talk.client.data == OK
    assert talk.client.events == ["eof"]


def test_a_laptop_that_says_more_than_it_was_asked_gets_no_more_requests() -> None:
    talk = Talk().say(ADAS).laptop(OK + b"HTTP/1.1 200 OK\r\n\r\n")
    assert talk.client.data == OK
    assert talk.hop.laptops[0].events == ["close"]


def test_a_connection_that_was_closed_for_its_age_is_replaced() -> None:
    talk = Talk().say(ADAS)
    talk.hop.laptops[0].reused = True
    talk.lose(talk.hop.laptops[0])
    assert talk.hop.laptops[1].data == ADAS
    talk.laptop(OK)
    assert talk.client.data == OK
    talk = Talk().say(POST)  # that may have been carried out
    talk.hop.laptops[0].reused = True
    talk.lose(talk.hop.laptops[0])
    assert talk.client.data.startswith(b"HTTP/1.1 502 ")


def test_no_way_to_the_laptop() -> None:
    """Nothing has been sent, so the app can have any request."""
    talk = Talk()
    talk.hop.unreachable = {"uid-ada", "uid-fay"}
    talk.say(POST).app(OK)
    assert talk.hop.default.data == POST
    talk.say(FAYS)
    assert b"\r\ntproxy-error: laptop-gone\r\n" in talk.client.data
    assert talk.outcomes == [Outcome.FALLBACK, Outcome.FAILED]


def test_a_long_request_is_not_kept_to_be_repeated() -> None:
    put = b"OPTIONS /a HTTP/1.1\r\nX-User: ada\r\nContent-Length: 100000\r\n\r\n" + bytes(100000)
    talk = Talk().say(put)
    talk.lose(talk.hop.laptops[0], ResetReason.TUNNEL_LOST)
    assert talk.hop.default.data == b""
    assert talk.client.data.startswith(b"HTTP/1.1 502 ")


def test_the_rest_of_a_failed_request_is_for_nobody() -> None:
    talk = Talk().say(POST[:-3])
    talk.lose(talk.hop.laptops[0], ResetReason.TUNNEL_LOST)
    talk.say(POST[-3:] + PLAIN)
    assert talk.hop.default.data == PLAIN


def test_a_failed_request_whose_body_may_not_come_is_the_last() -> None:
    request = POST[:-5].replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")
    talk = Talk().say(request)
    talk.lose(talk.hop.laptops[0], ResetReason.TUNNEL_LOST)
    assert b"\r\nconnection: close\r\n" in talk.client.data
    assert talk.client.events == ["eof"]


def test_a_client_that_has_finished_is_answered() -> None:
    talk = Talk().say(ADAS).eof().laptop(OK)
    assert talk.client.data == OK
    assert talk.hop.spliced is talk.hop.default  # which learns that the client has finished
    talk = Talk().say(PLAIN + ADAS).eof().app(OK).laptop(OK)
    assert talk.client.data == OK + OK
    talk = Talk().say(POST[:-3]).eof()
    assert talk.hop.laptops[0].events == ["eof"]
    talk.laptop(OK)
    assert talk.client.events == ["close"]


def test_a_client_that_has_finished_too_early_and_gets_nonsense() -> None:
    """It is passed on; the laptop, which has been told of the end, is told nothing more."""
    talk = Talk().say(POST[:-3]).eof().laptop(b"nonsense\r\n\r\n")
    assert talk.client.data == b"nonsense\r\n\r\n"
    assert talk.hop.spliced is talk.hop.laptops[0]


def test_half_a_request_is_shown_to_the_app_after_a_moment() -> None:
    talk = Talk().say(b"GET / HT")
    assert talk.hop.default.data == b""
    assert talk.hop.awake == 0.5
    talk.timeout()
    assert talk.hop.default.data == b"GET / HT"
    talk.say(b"TP/1.1\r\nHost: shop\r\n")
    talk.timeout()
    talk.say(b"\r\n").app(OK)
    assert talk.hop.default.data == PLAIN
    assert talk.outcomes == [Outcome.PASSED]


def test_but_if_it_was_a_laptops_it_gets_no_more_of_it() -> None:
    talk = Talk().say(ADAS[:30])
    talk.timeout()
    talk.say(ADAS[30:]).laptop(OK)
    assert talk.hop.apps[0].events == ["reset"]
    assert talk.hop.laptops[0].data == ADAS
    talk.say(PLAIN)
    assert talk.hop.apps[1].data == PLAIN


def test_slow_readers_are_waited_for() -> None:
    talk = Talk().say(ADAS)
    talk.router.client_pause()
    assert talk.hop.laptops[0].paused
    talk.laptop(OK).say(EVES)
    assert talk.hop.laptops[1].paused
    talk.router.client_resume()
    assert not talk.hop.laptops[1].paused
    assert not talk.hop.default.paused
    talk.router.upstream_pause(talk.hop.laptops[1])
    assert talk.client.paused
    talk.laptop(OK)  # over: whether it would take more does not matter
    assert not talk.client.paused


def test_a_client_that_asks_on_and_on_is_not_read_on() -> None:
    talk = Talk().say(ADAS)
    assert not talk.client.paused
    talk.say(PLAIN)
    assert talk.client.paused
    talk.laptop(OK)
    assert not talk.client.paused
    talk.say(PLAIN * 1000)
    assert talk.client.paused
    assert talk.hop.default.data.count(PLAIN) == 256
    talk.app(OK * 3)
    assert talk.hop.default.data.count(PLAIN) == 259


def test_when_nobody_intercepts_any_more_nobody_looks() -> None:
    talk = Talk().say(PLAIN).app(OK)
    talk.router.drain()
    assert talk.hop.spliced is talk.hop.default
    talk = Talk().say(ADAS + PLAIN)
    talk.router.drain()
    assert talk.hop.spliced is None  # it has a request yet
    talk.laptop(OK)
    assert talk.hop.spliced is talk.hop.default
    assert talk.hop.default.data == PLAIN
    assert talk.client.data == OK


def test_others_rules_count_from_the_next_request_on() -> None:
    talk = Talk().say(ADAS).laptop(OK)
    talk.hop.matcher = Rules([])
    talk.say(ADAS).app(OK)
    assert talk.hop.default.data == ADAS


def test_health_checks_are_the_apps() -> None:
    check = ADAS.replace(b"\r\n\r\n", b"\r\nUser-Agent: kube-probe/1.34\r\n\r\n")
    talk = Talk().say(check).app(OK)
    assert talk.hop.default.data == check


def test_an_answer_like_a_head_without_end_is_passed_on() -> None:
    endless = b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 30000
    talk = Talk().say(PLAIN).app(endless)
    assert talk.client.data == endless
    assert talk.hop.spliced is talk.hop.default


def test_what_all_hold_back_has_a_limit() -> None:
    talk = Talk().say(ADAS[:20])
    assert talk.hop.holding == 20
    talk.say(ADAS[20:])
    assert talk.hop.holding == 0
    talk = Talk()
    talk.hop.crowded = True
    talk.say(PLAIN[:20])
    assert talk.hop.default.data == PLAIN[:20]
    assert talk.hop.spliced is talk.hop.default
