"""How connections of HTTP/2 end: by the app's wish or ours, by the client's, and without anybody's."""

from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated

from tests.unit.http.h2_talk import H2Talk, get
from tproxy.http.h2.frames import window_update
from tproxy.http.plumbing import LINGER_SECONDS


def test_the_apps_goaway_is_the_clients() -> None:
    talk = H2Talk()
    one, two, ada = talk.ask(get()), talk.ask(get()), talk.ask(get(x_user="ada"))
    talk.app.leave(1)
    talk.run()
    assert talk.client.goaway is not None
    assert talk.client.goaway.last_stream_id == ada
    assert talk.client.message(two).reset == ErrorCodes.REFUSED_STREAM
    talk.answer(talk.app, 1)
    assert talk.client.message(one).body == b"ok"
    assert not talk.hop.client.over, "ada's answer is still to come"
    talk.answer(talk.laptop, 1)
    assert talk.client.message(ada).body == b"ok"
    assert talk.hop.client.events == ["eof"]


def test_an_app_that_ends_the_connection_ends_the_clients() -> None:
    talk = H2Talk()
    talk.ask(get())
    talk.down.add(talk.hop.default)
    talk.router.upstream_eof(talk.hop.default)
    assert talk.hop.client.events == ["eof"]
    talk = H2Talk()
    stream, ada = talk.ask(get()), talk.ask(get(x_user="ada"))
    talk.lose(talk.hop.default)
    assert dict(talk.client.message(stream).headers)[b"tproxy-error"] == b"app-gone"
    assert not talk.hop.client.over
    talk.answer(talk.laptop, 1)
    assert talk.client.message(ada).body == b"ok"
    assert talk.hop.client.events == ["eof"]


def test_draining_lets_requests_on_their_way_through() -> None:
    talk = H2Talk()
    one = talk.ask(get())
    talk.router.drain()
    first = talk.hop.client.data
    # A request that the client sends before it has heard of anything.
    late = talk.client.h2.get_next_available_stream_id()
    talk.client.h2.send_headers(late, get("/late"), end_stream=True)
    talk.router.client_data(talk.client.h2.data_to_send())
    assert talk.hop.client.data == first
    talk.run()
    goaways = [event for event in talk.client.events if isinstance(event, ConnectionTerminated)]
    assert [event.last_stream_id for event in goaways] == [2**31 - 1, late]
    assert talk.app.requests == [1, 3]
    talk.answer(talk.app, 1)
    assert not talk.hop.client.over
    talk.answer(talk.app, 3)
    assert talk.client.message(one).body == talk.client.message(late).body == b"ok"
    assert talk.hop.client.events == ["eof"]
    talk.router.client_data(window_update(0, 100))  # it goes on reading, and closed it would be reset
    assert talk.hop.client.events == ["eof"]
    talk.router.client_eof()
    assert talk.hop.client.events == ["eof", "close"]
    assert talk.hop.awake is None


def test_a_client_that_does_not_take_the_end_is_not_waited_for_for_ever() -> None:
    talk = H2Talk()
    talk.app.leave(0)
    talk.run()
    assert talk.hop.client.events == ["eof"]
    assert talk.hop.awake == LINGER_SECONDS
    talk.router.timeout()
    assert talk.hop.client.events == ["eof", "close"]


def test_a_client_that_sends_no_more_gets_its_answers() -> None:
    talk = H2Talk()
    stream = talk.ask(get())
    talk.router.client_eof()
    talk.answer(talk.app, 1)
    assert talk.client.message(stream).body == b"ok"
    assert talk.hop.client.events == ["close"]


def test_a_client_that_is_gone_takes_everything_with_it() -> None:
    talk = H2Talk()
    talk.ask(get())
    talk.ask(get(x_user="ada"))
    talk.router.client_lost()
    assert talk.hop.default.events == talk.hop.laptops[0].events == ["reset"]
