"""HTTP/2 from those who break its rules, or keep them to the letter and mean no good."""

import random
import tracemalloc

import pytest
from h2.errors import ErrorCodes
from hpack import Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.http.h2_talk import H2Talk, get, request
from tests.unit.http.h2_wire import PREFACE, Manner, Message, Writer, read
from tests.unit.http.hop import RecordedHop
from tproxy.http.h2 import frames as f
from tproxy.http.h2.book import MAX_STREAMS
from tproxy.http.h2.router import Http2

SETTINGS = f.settings({})


def router(data: bytes = b"") -> tuple[Http2, RecordedHop]:
    hop = RecordedHop()
    made = Http2(hop, b"", False)
    made.client_data(PREFACE + SETTINGS + data)
    return made, hop


def block(user: str = "", end: bool = False) -> bytes:
    encoder = Encoder()
    encoder.header_table_size = 0
    return bytes(encoder.encode(request("GET", **({"x_user": user} if user else {}))))


def opened(stream: int, user: str = "", end: bool = False) -> bytes:
    return f.headers(stream, block(user), end)


def ended_with(hop: RecordedHop) -> int:
    """The code of the GOAWAY with which the client's connection was ended."""
    assert hop.client.over
    [(_, code)] = read(hop.client.data).goaways
    assert all(upstream.over for upstream in (*hop.apps, *hop.laptops))
    return code


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (opened(2), f.PROTOCOL_ERROR),
        (f.frame(f.HEADERS, f.END_HEADERS, 0, block()), f.PROTOCOL_ERROR),
        (f.frame(f.DATA, 0, 1, b"x"), f.PROTOCOL_ERROR),
        (f.frame(f.DATA, 0, 0, b"x"), f.PROTOCOL_ERROR),
        (f.rst_stream(1, 8), f.PROTOCOL_ERROR),
        (f.window_update(1, 1), f.PROTOCOL_ERROR),
        (f.window_update(0, 0), f.PROTOCOL_ERROR),
        (f.window_update(0, 2**31 - 1), f.FLOW_CONTROL_ERROR),
        (f.frame(f.WINDOW_UPDATE, 0, 0, b"123"), f.FRAME_SIZE_ERROR),
        (f.frame(f.PING, 0, 0, b"123"), f.FRAME_SIZE_ERROR),
        (f.frame(f.SETTINGS, 0, 0, b"123"), f.FRAME_SIZE_ERROR),
        (f.frame(f.SETTINGS, 0, 1, b""), f.PROTOCOL_ERROR),
        (f.frame(f.SETTINGS, f.ACK, 0) * 2, f.PROTOCOL_ERROR),
        (f.settings({f.INITIAL_WINDOW_SIZE: 2**31}), f.FLOW_CONTROL_ERROR),
        (f.frame(f.GOAWAY, 0, 0, b"123"), f.FRAME_SIZE_ERROR),
        (f.frame(f.PUSH_PROMISE, f.END_HEADERS, 1, b"\0\0\0\2" + block()), f.PROTOCOL_ERROR),
        (f.frame(f.CONTINUATION, f.END_HEADERS, 1, block()), f.PROTOCOL_ERROR),
        (f.frame(f.HEADERS, 0, 1, block()) + f.frame(f.PING, 0, 0, bytes(8)), f.PROTOCOL_ERROR),
        (f.frame(f.HEADERS, 0, 1, block()) + f.frame(f.CONTINUATION, 0, 3, b""), f.PROTOCOL_ERROR),
        (f.frame(f.HEADERS, f.END_HEADERS | f.PADDED, 1, b"\xff" + block()), f.PROTOCOL_ERROR),
        (f.frame(f.HEADERS, f.END_HEADERS | f.PRIORITISED, 1, b"\0"), f.FRAME_SIZE_ERROR),
        (opened(1) + f.frame(f.DATA, f.PADDED, 1, b""), f.PROTOCOL_ERROR),
        (opened(1) + b"\xff\xff\xff" + bytes(6), f.FRAME_SIZE_ERROR),
        (f.headers(1, b"\x80", True), f.COMPRESSION_ERROR),
        (f.headers(1, b"\xbf\xff", True), f.COMPRESSION_ERROR),
        (f.headers(1, b"\x82\x40\x7f\xff\xff\xff\xff\xff\x7f", True), f.COMPRESSION_ERROR),
        (f.headers(1, b"\x82\x40\x05abc", True), f.COMPRESSION_ERROR),
        (f.frame(f.SETTINGS, f.ACK, 0) + f.headers(1, b"\x82\x20\x84", True), f.COMPRESSION_ERROR),
        (f.frame(f.SETTINGS, f.ACK, 0) + f.headers(1, b"\x3f\xe1\x1f", True), f.COMPRESSION_ERROR),
        (f.frame(f.SETTINGS, f.ACK, 0) + f.headers(1, b"\xbe", True), f.COMPRESSION_ERROR),
        (f.frame(f.SETTINGS, f.ACK, 0) + f.headers(1, b"\x44\x81\xff", True), f.COMPRESSION_ERROR),
    ],
)
def test_what_ends_the_connection(data: bytes, code: int) -> None:
    _, hop = router(data)
    assert ended_with(hop) == code


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", PREFACE[:-1] + b"X"])
def test_no_preface(data: bytes) -> None:
    hop = RecordedHop()
    Http2(hop, b"", False).client_data(data)
    assert hop.client.over


def test_a_client_that_does_not_begin_with_settings() -> None:
    hop = RecordedHop()
    Http2(hop, b"", False).client_data(PREFACE + opened(1))
    assert ended_with(hop) == f.PROTOCOL_ERROR


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (f.window_update(1, 0), f.PROTOCOL_ERROR),
        (f.window_update(1, 2**31 - 1), f.FLOW_CONTROL_ERROR),
        (f.frame(f.SETTINGS, f.ACK, 0) + f.frame(f.DATA, 0, 1, bytes(16384)) * 5, f.FLOW_CONTROL_ERROR),
    ],
)
def test_what_ends_one_stream(data: bytes, code: int) -> None:
    _, hop = router(opened(1) + opened(3) + data)
    assert not hop.client.over
    assert {number: seen.reset for number, seen in read(hop.client.data).messages.items()} == {1: code}


def test_more_than_the_connections_window() -> None:
    made, hop = router(f.frame(f.SETTINGS, f.ACK, 0))
    for stream in range(1, 200, 2):
        made.client_data(opened(stream, "ada") + f.frame(f.DATA, 0, stream, bytes(16384)) * 3)
    # A laptop that takes nothing: what is not refused is bounded.
    assert made._book.parked.bytes <= 4 * 1024 * 1024
    assert made._book.parked.kept <= 1024 * 1024
    made, hop = router(f.frame(f.SETTINGS, f.ACK, 0))
    made.upstream_pause(hop.default)
    for stream in range(1, 200, 2):
        made.client_data(opened(stream) + f.frame(f.DATA, 0, stream, bytes(16384)) * 3)
    assert ended_with(hop) == f.FLOW_CONTROL_ERROR


def test_ten_thousand_streams_cost_a_bounded_share() -> None:
    made, hop = router(f.frame(f.SETTINGS, f.ACK, 0))
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(10_000):
        made.client_data(opened(2 * number + 1, "ada"))
        if hop.client.over:
            break
        assert len(made._book.streams) <= MAX_STREAMS
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 8 * 1024 * 1024
    assert ended_with(hop) == f.ENHANCE_YOUR_CALM
    assert read(hop.client.data).messages[1 + 2 * MAX_STREAMS].reset == f.REFUSED_STREAM


def test_a_storm_of_resets_ends() -> None:
    made, hop = router(f.frame(f.SETTINGS, f.ACK, 0))
    number = 0
    for number in range(10_000):
        made.client_data(opened(2 * number + 1) + f.rst_stream(2 * number + 1, 8))
        if hop.client.over:
            break
        hop.time += 0.0001
    assert 1000 < number < 5000
    assert ended_with(hop) == f.ENHANCE_YOUR_CALM


def test_clients_that_cancel_a_lot_may_go_on() -> None:
    made, hop = router(f.frame(f.SETTINGS, f.ACK, 0))
    for number in range(5000):
        made.client_data(opened(2 * number + 1) + f.rst_stream(2 * number + 1, 8))
        hop.time += 0.002
    assert not hop.client.over


@pytest.mark.parametrize("piece", [b"", bytes(16384)])
def test_header_blocks_without_end(piece: bytes) -> None:
    made, hop = router(f.frame(f.HEADERS, 0, 1, block()))
    for _ in range(1000):
        made.client_data(f.frame(f.CONTINUATION, 0, 1, piece))
    assert ended_with(hop) == f.ENHANCE_YOUR_CALM


def test_headers_that_grow_when_decoded() -> None:
    """A field of 4,000 bytes in the table, and then nothing but references to it."""
    encoder = Encoder()
    first = encoder.encode([("x-large", "a" * 4000)])
    _, hop = router(f.headers(1, first + b"\xbe" * 60_000, True))
    assert ended_with(hop) == f.COMPRESSION_ERROR


@pytest.mark.parametrize("flood", [f.frame(f.PING, 0, 0, b"12345678"), SETTINGS])
def test_answers_that_nobody_reads_do_not_pile_up(flood: bytes) -> None:
    made, hop = router()
    made.client_pause()
    for _ in range(100):
        made.client_data(flood * 1000)
    assert hop.client.events == ["reset"]
    assert len(hop.client.data) < 1024 * 1024


def test_a_laptop_that_talks_nonsense_hurts_only_its_own() -> None:
    for nonsense in (b"\0\0\x05\1\4\0\0\0\1\xbe\xbe\xbe\xbe\xbe", f.frame(f.DATA, 0, 0, b"x"), b"\xff" * 20):
        talk = H2Talk()
        mine, others = talk.ask(get(x_user="ada")), talk.ask(get())
        talk.down.add(talk.hop.laptops[0])
        talk.router.upstream_data(talk.hop.laptops[0], nonsense)
        talk.run()
        message = talk.client.message(mine)
        assert dict(message.headers)[b":status"] == b"502"
        talk.answer(talk.app, 1)
        assert talk.client.message(others).body == b"ok"
        assert talk.client.goaway is None


def test_an_upstream_that_sends_too_much_on_a_stream() -> None:
    talk = H2Talk(client_settings=None)
    one, two = talk.ask(get(x_user="ada")), talk.ask(get(x_user="ada"))
    laptop = talk.hop.laptops[0]
    talk.run()
    answer = f.headers(1, b"\x88", False) + f.frame(f.DATA, 0, 1, bytes(16384)) * 5
    talk.client.stalling.add(one)
    talk.router.upstream_data(laptop, answer)
    talk.run()
    assert talk.client.message(one).reset == ErrorCodes.INTERNAL_ERROR
    talk.answer(talk.laptop, 3)
    assert talk.client.message(two).body == b"ok"


def test_pushes_are_refused() -> None:
    talk = H2Talk()
    stream = talk.ask(get())
    promise = f.frame(f.PUSH_PROMISE, f.END_HEADERS, 1, b"\0\0\0\2" + block())
    talk.router.upstream_data(talk.hop.default, promise)
    assert f.rst_stream(2, f.REFUSED_STREAM) in talk.hop.default.data
    talk.answer(talk.app, 1)
    assert talk.client.message(stream).body == b"ok"


def _conversation() -> list[bytes]:
    writer = Writer()
    said = [writer.begin(client=True)]
    for number in range(6):
        fields = tuple(request("POST", f"/{number}", **({"x_user": "ada"} if number % 2 else {})))
        manner = Manner(3, padding=number, continuations=number % 3, noise=True)
        said += writer.message(2 * number + 1, Message(fields, b"body" * 10, ((b"x", b"y"),)), manner)
        if number == 2:
            said.append(writer.acknowledge())
    return said


_CONVERSATION = _conversation()


@settings(max_examples=1500, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, 30))
def test_nothing_that_is_said_makes_it_fall_over(rand: random.Random, changes: int) -> None:
    """A good conversation, spoilt; and the same said by upstreams."""
    pieces = list(_CONVERSATION)
    for _ in range(changes):
        at = rand.randrange(1, len(pieces))
        piece = bytearray(pieces[at])
        match rand.randrange(5):
            case 0 if piece:
                piece[rand.randrange(len(piece))] = rand.randrange(256)
            case 1:
                del piece[rand.randrange(len(piece) + 1) :]
            case 2:
                piece += rand.randbytes(rand.randrange(20))
            case 3:
                pieces.insert(at, pieces[rand.randrange(len(pieces))])
            case _:
                piece = bytearray(
                    f.frame(rand.randrange(12), rand.randrange(256), rand.randrange(16), rand.randbytes(9))
                )
        pieces[at] = bytes(piece)
    hop = RecordedHop()
    made = Http2(hop, b"", False)
    made.client_data(PREFACE + SETTINGS + opened(1) + opened(3, "ada"))
    for piece in pieces[1:]:
        who = rand.randrange(6)
        if who == 0:
            made.upstream_data(hop.default, piece)
        elif who == 1 and hop.laptops:
            made.upstream_data(hop.laptops[-1], piece)
        else:
            made.client_data(piece)
        match rand.randrange(40):
            case 0:
                made.client_pause()
            case 1:
                made.client_resume()
            case 2:
                made.upstream_pause(hop.default)
            case 3:
                made.upstream_resume(hop.default)
            case 4:
                made.drain()
            case 5:
                made.timeout()
    assert made._book.parked.bytes >= 0
    assert made._book.parked.kept >= 0
    assert all(not half.queue or not half.stream.gone for half in made._client.blocked)
    made.client_lost()
    assert all(upstream.over for upstream in (hop.default, *hop.laptops))
