"""The first words of a connection, and connections that nobody looks at any more."""

import pytest

from tests.unit.http.hop import RecordedHop, Talk
from tproxy.http.http1 import Http1
from tproxy.http.opening import MAX_EARLY, PREFACE, Opening
from tproxy.http.port import Hop, Router
from tproxy.http.raw import Raw
from tproxy.model.flow import ResetReason

PLAIN = b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n"
ADAS = b"GET /a HTTP/1.1\r\nX-User: ada\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SETTINGS = b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64"


class Http2:
    """What the router of HTTP/2 is told."""

    def __init__(self, early: bytes, upgraded: bool) -> None:
        self.early = early
        self.upgraded = upgraded
        self.data = b""
        self.answers = b""
        self.lost = False

    def client_data(self, data: bytes) -> None:
        self.data += data

    def upstream_data(self, upstream: object, data: bytes) -> None:
        self.answers += data

    def upstream_lost(self, *_: object) -> None:
        self.lost = True


def opening() -> Talk:
    def http2(hop: Hop, early: bytes, upgraded: bool) -> Router:
        return Http2(early, upgraded)  # type: ignore[return-value]

    talk = Talk(make=lambda hop: Opening(hop, http2))
    talk.hop.become(talk.router)
    return talk


def spoken(talk: Talk) -> Http2:
    assert isinstance(talk.hop.router, Http2)
    return talk.hop.router


def test_a_server_that_speaks_first_is_heard() -> None:
    talk = opening().app(b"220 mail ESMTP\r\n")
    assert talk.client.data == b"220 mail ESMTP\r\n"
    assert talk.hop.spliced is talk.hop.default


@pytest.mark.parametrize("size", [1, 3, len(PREFACE), 100])
def test_http2_is_told_from_others_by_its_preface(size: int) -> None:
    data = PREFACE + SETTINGS
    talk = opening().say(*(data[at : at + size] for at in range(0, len(data), size)))
    assert spoken(talk).data == data
    assert not spoken(talk).upgraded


@pytest.mark.parametrize("size", [1, 2, 9, 15])
def test_settings_of_the_app_wait_for_the_clients_word(size: int) -> None:
    talk = opening().app(*(SETTINGS[at : at + size] for at in range(0, len(SETTINGS), size)))
    assert talk.client.data == b""
    talk.say(PREFACE)
    assert spoken(talk).early == SETTINGS
    talk = opening().app(SETTINGS).say(PLAIN)  # so it was something else
    assert (talk.client.data, talk.hop.default.data) == (SETTINGS, PLAIN)
    assert talk.hop.spliced is talk.hop.default


def test_what_only_begins_like_settings_is_passed_on() -> None:
    for data in (b"\0\0\x06\x05\0\0\0\0\0", b"\0\0\x07\x04\0\0\0\0\0", b"\0\0\x01a", SETTINGS + bytes(MAX_EARLY)):
        talk = opening().app(data)
        assert talk.client.data == data
        assert talk.hop.spliced is talk.hop.default


def test_a_part_of_the_preface_is_shown_to_the_app_after_a_moment() -> None:
    talk = opening().say(b"P")
    assert talk.hop.default.data == b""
    talk.timeout()
    assert talk.hop.default.data == b"P"
    talk.say(b"OST / HTTP/1.1\r\n\r\n").app(OK)
    assert talk.hop.default.data == b"POST / HTTP/1.1\r\n\r\n"
    assert talk.client.data == OK


def test_an_app_that_refuses() -> None:
    talk = opening()
    talk.lose(talk.hop.default, ResetReason.REFUSED)
    assert not talk.client.events
    talk.say(ADAS).laptop(OK)
    assert talk.client.data == OK
    silent = opening()
    silent.lose(silent.hop.default, ResetReason.REFUSED)
    assert silent.hop.awake == 5
    silent.timeout()
    assert silent.client.events == ["reset"]
    other = opening()
    other.lose(other.hop.default, ResetReason.REFUSED)
    other.say(b"\x16\x03\x01")
    assert other.hop.apps[1].data == b"\x16\x03\x01"  # which will refuse again
    two = opening()
    two.lose(two.hop.default, ResetReason.REFUSED)
    two.say(PREFACE)
    assert spoken(two).lost


def test_an_app_that_resets_resets() -> None:
    talk = opening()
    talk.lose(talk.hop.default)
    assert talk.client.events == ["reset"]


def test_ends_without_a_word() -> None:
    for end in (lambda talk: talk.eof(), lambda talk: talk.router.upstream_eof(talk.hop.default)):
        talk = opening()
        end(talk)
        assert talk.hop.spliced is talk.hop.default
    talk = opening()
    talk.router.client_lost()
    assert talk.hop.default.events == ["reset"]
    talk = opening().say(b"PRI")
    talk.router.drain()
    assert talk.hop.default.data == b"PRI"
    assert talk.hop.spliced is talk.hop.default


def test_an_upgrade_to_http2_that_the_app_takes() -> None:
    request = (
        b"GET / HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
    )
    switching = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    talk = opening().say(request + PREFACE).app(switching + SETTINGS)
    assert talk.client.data == switching
    assert talk.hop.default.data == request
    assert spoken(talk).upgraded
    assert (spoken(talk).answers, spoken(talk).data) == (SETTINGS, PREFACE)


class Pair:
    """A `Raw` and its ends."""

    def __init__(self, client_eof: bool = False, upstream_eof: bool = False) -> None:
        self.hop = RecordedHop()
        self.raw = Raw(self.hop, self.hop.default, client_eof, upstream_eof)

    @property
    def events(self) -> tuple[list[str], list[str]]:
        return self.hop.client.events, self.hop.default.events


def test_raw_bytes_and_ends() -> None:
    pair = Pair()
    pair.raw.client_data(b"a")
    pair.raw.upstream_data(pair.hop.default, b"b")
    assert (pair.hop.default.data, pair.hop.client.data) == (b"a", b"b")
    pair.raw.client_eof()
    assert pair.events == ([], ["eof"])
    pair.raw.upstream_eof(pair.hop.default)
    assert pair.events == (["eof", "close"], ["eof", "close"])
    assert Pair(client_eof=True).events == ([], ["eof"])
    assert Pair(upstream_eof=True).events == (["eof"], [])
    assert Pair(True, True).events == (["eof", "close"], ["eof", "close"])


def test_raw_resets_and_pauses() -> None:
    pair = Pair()
    pair.raw.client_pause()
    assert pair.hop.default.paused
    pair.raw.client_resume()
    pair.raw.upstream_pause(pair.hop.default)
    assert (pair.hop.default.paused, pair.hop.client.paused) == (False, True)
    pair.raw.upstream_resume(pair.hop.default)
    assert not pair.hop.client.paused
    pair.raw.client_lost()
    assert pair.events == ([], ["reset"])
    pair = Pair()
    pair.raw.upstream_lost(pair.hop.default, ResetReason.RESET, "")
    assert pair.events == (["reset"], [])


def test_raw_hears_of_its_own_upstream_only() -> None:
    pair, other = Pair(), RecordedHop().default
    pair.raw.upstream_data(other, b"x")
    pair.raw.upstream_eof(other)
    pair.raw.upstream_lost(other, ResetReason.RESET, "")
    pair.raw.upstream_pause(other)
    pair.raw.upstream_resume(other)
    assert (pair.hop.client.data, pair.events) == (b"", ([], []))


def test_http1_is_what_it_becomes() -> None:
    talk = opening().say(PLAIN)
    assert isinstance(talk.hop.router, Http1)
