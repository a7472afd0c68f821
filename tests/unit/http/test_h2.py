"""The HTTP/2 router between python-h2 peers, as traces."""

import pytest
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from tests.unit.http.h2_talk import OK, H2Talk, get, request
from tproxy.model.flow import ResetReason

GRPC = {"te": "trailers", "content_type": "application/grpc"}


@pytest.mark.parametrize("early", [False, True])
def test_each_request_goes_where_it_belongs(early: bool) -> None:
    talk = H2Talk(early=early)
    one, two, three = talk.ask(get("/1")), talk.ask(get("/2", x_user="ada")), talk.ask(get("/3", x_user="eve"))
    assert [talk.app.message(stream).headers for stream in talk.app.requests] == [get("/1")]
    ada, eve = (talk.end(recorded) for recorded in talk.hop.laptops)
    assert ada.message(1).headers == get("/2", x_user="ada")
    assert eve.message(1).headers == get("/3", x_user="eve")
    talk.answer(eve, 1, b"eve's")
    talk.answer(ada, 1, b"ada's")
    talk.answer(talk.app, 1, b"the app's")
    for stream, body in ((one, b"the app's"), (two, b"ada's"), (three, b"eve's")):
        message = talk.client.message(stream)
        assert (message.headers, message.body, message.ended) == (OK, body, True)
    assert talk.outcomes == [("matched", "uid-eve", 200), ("matched", "uid-ada", 200), ("passed", "", 200)]


def test_streams_of_one_intercept_share_a_connection() -> None:
    talk = H2Talk()
    for _ in range(3):
        talk.ask(get(x_user="ada"))
    assert len(talk.hop.laptops) == 1
    assert talk.laptop.requests == [1, 3, 5]


def test_bodies_and_trailers_both_ways() -> None:
    talk = H2Talk()
    body = bytes(range(256)) * 1000
    for fields, name in (({}, "app"), ({"x_user": "ada"}, "laptop")):
        stream = talk.ask(request("POST", "/p.S/M", **GRPC, **fields), body, [(b"x-sum", b"1")])
        end = getattr(talk, name)
        got = end.message(1)
        assert (got.body == body, got.trailers, got.ended) == (True, [(b"x-sum", b"1")], True)
        talk.answer(end, 1, body[::-1], trailers=[(b"grpc-status", b"0")])
        message = talk.client.message(stream)
        assert (message.body == body[::-1], message.trailers) == (True, [(b"grpc-status", b"0")])
    assert not talk.router._book.streams
    assert talk.router._book.parked.bytes == talk.router._book.parked.kept == 0


def test_informational_answers_pass() -> None:
    talk = H2Talk()
    stream = talk.ask(request("POST", expect="100-continue"), body=None)
    talk.app.h2.send_headers(1, [(b":status", b"103"), (b"link", b"</a>")])
    talk.answer(talk.app, 1)
    assert talk.client.message(stream).informational == [[(b":status", b"103"), (b"link", b"</a>")]]
    assert talk.client.message(stream).body == b"ok"
    assert talk.outcomes == [("passed", "", 200)]


def test_resets_pass_both_ways() -> None:
    talk = H2Talk()
    one, two = talk.ask(request("POST", **GRPC), b""), talk.ask(request("POST", x_user="ada", **GRPC), b"")
    talk.client.h2.reset_stream(one, ErrorCodes.CANCEL)
    talk.client.h2.reset_stream(two, ErrorCodes.CANCEL)
    talk.run()
    assert talk.app.message(1).reset == talk.laptop.message(1).reset == ErrorCodes.CANCEL
    three = talk.ask(get())
    talk.app.h2.reset_stream(3, ErrorCodes.ENHANCE_YOUR_CALM)
    talk.run()
    assert talk.client.message(three).reset == ErrorCodes.ENHANCE_YOUR_CALM
    assert not talk.router._book.streams


def test_an_answer_may_come_before_the_request_is_complete() -> None:
    talk = H2Talk()
    stream = talk.client.h2.get_next_available_stream_id()
    talk.client.h2.send_headers(stream, request("POST"))
    talk.run()
    talk.answer(talk.app, 1, b"no")
    assert talk.client.message(stream).ended
    talk.client.h2.send_data(stream, b"more", end_stream=True)
    talk.run()
    assert talk.app.message(1).body == b"more"
    stream = talk.client.h2.get_next_available_stream_id()
    talk.client.h2.send_headers(stream, request("POST"))
    talk.run()
    talk.answer(talk.app, 3, b"no")
    talk.app.h2.reset_stream(3, ErrorCodes.NO_ERROR)
    talk.run()
    assert talk.client.message(stream).reset == ErrorCodes.NO_ERROR
    assert not talk.router._book.streams


def test_a_stalled_stream_stalls_no_other() -> None:
    talk = H2Talk(client_settings={SettingCodes.INITIAL_WINDOW_SIZE: 1000})
    stalled, going = talk.ask(get("/stalled")), talk.ask(get("/going", x_user="ada"))
    talk.client.stalling.add(stalled)
    talk.app.h2.send_headers(1, OK)
    assert talk.app.h2.local_flow_control_window(1) == 1000, "the app may send what the client takes, and no more"
    talk.app.h2.send_data(1, b"x" * 1000)
    talk.run()
    assert talk.app.h2.local_flow_control_window(1) == 0
    talk.answer(talk.laptop, 1, b"y" * 300_000)
    assert len(talk.client.message(going).body) == 300_000
    other = talk.ask(get("/other"))
    talk.answer(talk.app, 3, b"z" * 300_000)
    assert len(talk.client.message(other).body) == 300_000
    assert talk.client.message(stalled).body == b"x" * 1000
    talk.client.stalling.clear()
    talk.client.h2.increment_flow_control_window(5000, stalled)
    talk.run()
    assert talk.app.h2.local_flow_control_window(1) == 5000


def test_a_laptop_that_reads_nothing_holds_up_nobody() -> None:
    talk = H2Talk(laptop_settings={SettingCodes.INITIAL_WINDOW_SIZE: 0})
    talk.ask(get(x_user="ada"))
    talk.answer(talk.laptop, 1)
    streams = []
    for _ in range(40):
        stream = talk.client.h2.get_next_available_stream_id()
        streams.append(stream)
        talk.client.h2.send_headers(stream, request("POST", x_user="ada"))
        talk.run()
        window = talk.client.h2.local_flow_control_window(stream)
        assert window > 0, "the connection's window is not the laptop's to use up"
        while window > 0:
            talk.client.h2.send_data(stream, b"x" * min(window, 16384))
            talk.run()
            window = talk.client.h2.local_flow_control_window(stream)
    assert talk.router._book.parked.bytes <= 4 * 1024 * 1024
    other = talk.ask(request("POST"), b"y" * 1_500_000)
    assert len(talk.app.message(1).body) == 1_500_000
    talk.answer(talk.app, 1)
    assert talk.client.message(other).body == b"ok"


def test_too_much_for_a_laptop_ends_the_newest_stream() -> None:
    talk = H2Talk(laptop_settings={SettingCodes.INITIAL_WINDOW_SIZE: 0})
    talk.ask(get(x_user="ada"))
    talk.answer(talk.laptop, 1)
    resets = 0
    for _ in range(80):
        stream = talk.client.h2.get_next_available_stream_id()
        talk.client.h2.send_headers(stream, request("POST", x_user="ada"))
        while talk.client.message(stream).reset is None and talk.client.h2.local_flow_control_window(stream) > 0:
            talk.client.h2.send_data(stream, b"x" * min(talk.client.h2.local_flow_control_window(stream), 16384))
            talk.run()
        resets += talk.client.message(stream).reset == ErrorCodes.ENHANCE_YOUR_CALM
    assert 10 < resets < 30
    assert talk.router._book.parked.bytes <= 4 * 1024 * 1024
    assert not talk.client.goaway


def test_a_slow_client_makes_upstreams_wait() -> None:
    talk = H2Talk()
    stream = talk.ask(get())
    talk.router.client_pause()
    assert talk.hop.default.paused
    talk.answer(talk.app, 1, b"x" * 60_000)
    assert talk.client.message(stream).body == b""
    talk.router.client_resume()
    talk.run()
    assert talk.client.message(stream).body == b"x" * 60_000
    assert not talk.hop.default.paused
    assert talk.outcomes == [("passed", "", 200)]


def test_a_slow_upstream_gets_data_when_it_takes_it() -> None:
    talk = H2Talk()
    talk.ask(get())
    talk.router.upstream_pause(talk.hop.default)
    stream = talk.client.h2.get_next_available_stream_id()
    talk.client.h2.send_headers(stream, request("POST"))
    talk.client.h2.send_data(stream, b"x" * 10_000)
    talk.run()
    assert talk.app.message(3).body == b""
    talk.router.upstream_resume(talk.hop.default)
    talk.run()
    assert talk.app.message(3).body == b"x" * 10_000


def test_the_apps_limits_are_told_to_the_client() -> None:
    talk = H2Talk(
        early=True, app_settings={SettingCodes.MAX_CONCURRENT_STREAMS: 7, SettingCodes.ENABLE_CONNECT_PROTOCOL: 1}
    )
    talk.run()
    assert talk.client.h2.remote_settings.max_concurrent_streams == 7
    assert talk.client.h2.remote_settings.enable_connect_protocol == 1
    assert talk.client.h2.remote_settings.header_table_size == 0
    late = H2Talk(app_settings={SettingCodes.MAX_CONCURRENT_STREAMS: 7, SettingCodes.INITIAL_WINDOW_SIZE: 100})
    late.run()
    assert late.client.h2.remote_settings.max_concurrent_streams == 7
    assert late.client.h2.remote_settings.initial_window_size == 100


def test_streams_wait_where_a_laptop_has_no_room() -> None:
    talk = H2Talk(laptop_settings={SettingCodes.MAX_CONCURRENT_STREAMS: 1})
    first = talk.ask(get("/1", x_user="ada"))
    second = talk.ask(request("POST", "/2", x_user="ada"), b"body")
    assert talk.laptop.requests == [1]
    talk.answer(talk.laptop, 1)
    assert talk.laptop.requests == [1, 3]
    assert talk.laptop.message(3).body == b"body"
    talk.answer(talk.laptop, 3, b"2")
    assert (talk.client.message(first).body, talk.client.message(second).body) == (b"ok", b"2")


def test_pings_are_answered_by_us() -> None:
    talk = H2Talk()
    talk.ask(get())
    before = talk.hop.default.data
    talk.client.h2.ping(b"12345678")
    talk.run()
    assert "PingAckReceived" in [type(each).__name__ for each in talk.client.events]
    assert talk.hop.default.data == before


def test_a_laptop_that_goes_hands_safe_requests_to_the_app() -> None:
    talk = H2Talk()
    safe, unsafe = talk.ask(get("/1", x_user="ada")), talk.ask(request("POST", "/2", x_user="ada"), b"body")
    call = talk.ask(request("POST", "/p.S/M", x_user="ada", **GRPC), b"body")
    talk.lose(talk.hop.laptops[0], ResetReason.TUNNEL_LOST)
    assert talk.app.message(1).headers == get("/1", x_user="ada")
    talk.answer(talk.app, 1, b"the app's")
    assert talk.client.message(safe).body == b"the app's"
    refused = talk.client.message(unsafe)
    assert dict(refused.headers)[b":status"] == b"502"
    assert dict(refused.headers)[b"tproxy-error"] == b"laptop-gone"
    assert b"adas-laptop" in refused.body
    assert refused.ended
    failed = dict(talk.client.message(call).headers)
    assert (failed[b":status"], failed[b"grpc-status"]) == (b"200", b"14")
    assert b"the laptop is not connected (laptop adas-laptop, " in failed[b"grpc-message"]
    assert sorted(talk.outcomes) == [
        ("failed", "uid-ada", 200),
        ("failed", "uid-ada", 502),
        ("fallback", "uid-ada", 200),
    ]
    assert talk.client.goaway is None
    assert talk.hop.client.events == []


def test_an_answer_that_has_begun_breaks_off() -> None:
    talk = H2Talk()
    plain, call = talk.ask(get("/1", x_user="ada")), talk.ask(request("POST", x_user="ada", **GRPC), b"")
    for stream in (1, 3):
        talk.laptop.h2.send_headers(stream, OK)
        talk.laptop.h2.send_data(stream, b"part")
    talk.run()
    talk.lose(talk.hop.laptops[0], ResetReason.TUNNEL_LOST)
    assert talk.client.message(plain).reset == ErrorCodes.INTERNAL_ERROR
    assert dict(talk.client.message(call).trailers or [])[b"grpc-status"] == b"14"
    assert not talk.app.requests
    assert talk.client.goaway is None
    assert talk.hop.client.events == []


def test_no_way_to_a_laptop() -> None:
    talk = H2Talk()
    talk.hop.unreachable = {"uid-ada", "uid-fay"}
    posted = talk.ask(request("POST", x_user="ada"), b"body")
    assert talk.app.message(1).body == b"body"
    talk.answer(talk.app, 1)
    assert talk.client.message(posted).body == b"ok"
    failed = talk.ask(request("POST", x_user="fay"), b"body")
    assert dict(talk.client.message(failed).headers)[b":status"] == b"502"
    assert talk.outcomes == [("fallback", "uid-ada", 200), ("failed", "uid-fay", 502)]


def test_a_local_app_that_is_down() -> None:
    talk = H2Talk()
    ada, eve = talk.ask(get(x_user="ada")), talk.ask(request("POST", x_user="eve"), b"body")
    for laptop in talk.hop.laptops:
        talk.lose(laptop, ResetReason.REFUSED, "the local app at port 3000: Connection refused")
    message = talk.client.message(ada)
    assert dict(message.headers)[b"tproxy-error"] == b"local-app-down"
    assert b"port 3000" in message.body
    assert talk.app.message(1).body == b"body", "eve asked for --fallback-when-refused"
    talk.answer(talk.app, 1)
    assert talk.client.message(eve).body == b"ok"


def test_a_local_app_that_speaks_no_http2() -> None:
    talk = H2Talk()
    talk.run()
    stream = talk.client.h2.get_next_available_stream_id()
    talk.client.h2.send_headers(stream, get(x_user="ada"), end_stream=True)
    talk.router.client_data(talk.client.h2.data_to_send())
    laptop = talk.hop.laptops[0]
    talk.down.add(laptop)
    talk.router.upstream_data(laptop, b"HTTP/1.1 400 Bad Request\r\n\r\n")
    talk.run()
    assert dict(talk.client.message(stream).headers)[b"tproxy-error"] == b"local-app-not-http2"
    assert laptop.events == ["close"]


def test_a_laptop_that_says_goaway_gets_a_new_connection() -> None:
    talk = H2Talk()
    first, second = talk.ask(get("/1", x_user="ada")), talk.ask(request("POST", "/2", x_user="ada"), b"body")
    old = talk.laptop
    old.leave(1)
    talk.run()
    assert len(talk.hop.laptops) == 2, "the second request has not been looked at, so it can be sent again"
    assert talk.laptop.message(1).body == b"body"
    talk.answer(talk.laptop, 1, b"second")
    talk.answer(old, 1, b"first")
    assert (talk.client.message(first).body, talk.client.message(second).body) == (b"first", b"second")
    assert talk.hop.laptops[0].events == ["close"]
    assert talk.client.goaway is None


def test_matched_requests_work_while_the_app_is_down() -> None:
    talk = H2Talk()
    talk.lose(talk.hop.default, ResetReason.REFUSED)
    stream = talk.ask(get(x_user="ada"))
    talk.answer(talk.laptop, 1)
    assert talk.client.message(stream).body == b"ok"
    talk.down.add(talk.hop.apps[-1])
    other = talk.client.h2.get_next_available_stream_id()
    talk.client.h2.send_headers(other, get(), end_stream=True)
    talk.down.update(talk.hop.apps)
    talk.router.client_data(talk.client.h2.data_to_send())
    assert len(talk.hop.apps) == 2, "it may be back"
    talk.lose(talk.hop.apps[1], ResetReason.REFUSED)
    assert talk.client.message(other).reset == ErrorCodes.REFUSED_STREAM
    again = talk.ask(get())
    talk.answer(talk.app, 1)
    assert talk.client.message(again).body == b"ok"


def test_requests_after_a_change_are_decided_anew() -> None:
    from tests.unit.http.hop import RecordedHop
    from tproxy.http.matcher import Rules

    talk = H2Talk()
    first = talk.ask(get(x_user="ada"))
    talk.answer(talk.laptop, 1)
    assert isinstance(talk.hop, RecordedHop)
    talk.hop.matcher = Rules([])
    second = talk.ask(get(x_user="ada"))
    talk.answer(talk.app, 1, b"the app's")
    assert (talk.client.message(first).body, talk.client.message(second).body) == (b"ok", b"the app's")
    assert talk.hop.laptops[0].events == ["close"], "nobody needs it any more"


def test_requests_that_wait_for_a_laptop_are_the_apps_when_it_goes() -> None:
    talk = H2Talk(laptop_settings={SettingCodes.MAX_CONCURRENT_STREAMS: 1})
    sent = talk.ask(request("POST", "/sent", x_user="ada"), b"1")
    waiting = talk.ask(request("POST", "/waiting", x_user="ada"), b"2")
    talk.lose(talk.hop.laptops[0], ResetReason.TUNNEL_LOST)
    assert dict(talk.client.message(sent).headers)[b":status"] == b"502"
    assert talk.app.message(1).body == b"2", "nobody has seen it yet"
    talk.answer(talk.app, 1)
    assert talk.client.message(waiting).body == b"ok"
