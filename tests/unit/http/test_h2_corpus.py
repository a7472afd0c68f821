"""What is said in HTTP/2 arrives message for message, however it is framed and cut, and at one place only."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.http.h2_wire import Fields, Manner, Message, Writer, read
from tests.unit.http.hop import Recorded, RecordedHop
from tproxy.http.h2.router import Http2


def head(method: bytes = b"GET", path: bytes = b"/", *more: tuple[bytes, bytes]) -> Fields:
    return ((b":method", method), (b":scheme", b"http"), (b":path", path), (b":authority", b"shop"), *more)


BODY = bytes(range(256)) * 8
GRPC = ((b"te", b"trailers"), (b"content-type", b"application/grpc"), (b"grpc-timeout", b"5S"))
REQUESTS = {
    "get": Message(head()),
    "head": Message(head(b"HEAD", b"/a?b=c")),
    "options *": Message(head(b"OPTIONS", b"*")),
    "connect": Message(((b":method", b"CONNECT"), (b":authority", b"db:5432")), b"raw"),
    "extended connect": Message(
        (*head(b"CONNECT", b"/chat"), (b":protocol", b"websocket"), (b"sec-websocket-version", b"13")), b"\x81\x02hi"
    ),
    "post": Message(head(b"POST", b"/p", (b"content-length", b"2048")), BODY),
    "empty post": Message(head(b"POST", b"/p", (b"content-length", b"0"))),
    "trailers": Message(head(b"POST", b"/t", (b"trailer", b"x-sum")), BODY, ((b"x-sum", b"1"),)),
    "trailers without a body": Message(head(b"POST", b"/t"), b"", ((b"x-sum", b"1"),)),
    "grpc": Message(head(b"POST", b"/p.S/M", *GRPC), b"\0\0\0\0\5hello"),
    "cookie crumbs": Message(head(b"GET", b"/", (b"cookie", b"a=1"), (b"cookie", b"b=2"))),
    "repeated fields": Message(head(b"GET", b"/", (b"x-a", b"1"), (b"x-b", b""), (b"x-a", b"1"), (b"x-a", b"2"))),
    "odd values": Message(
        head(b"GET", b"/\xc3\xa9%20", (b"x-bytes", bytes(range(0x21, 0x100))), (b"x-blank", b"  a "))
    ),
    "cancelled": Message(head(b"POST", b"/c"), b"part", None, 8),
    "cancelled at once": Message(head(b"POST", b"/c"), b"", None, 8),
    "expect": Message(head(b"POST", b"/e", (b"expect", b"100-continue")), BODY),
    "secret": Message(head(b"GET", b"/", (b"authorization", b"Bearer secret"), (b"cookie", b"short"))),
}
LARGE = {
    "64 KiB of fields": Message(head(b"GET", b"/", *((b"x-%d" % n, b"v" * 1000) for n in range(64)))),
    "one large field": Message(head(b"GET", b"/" + b"a" * 30_000)),
}
MANNERS = {
    "plain": Manner(),
    "pieces": Manner(pieces=7),
    "single bytes": Manner(pieces=200),
    "end of its own": Manner(empty=True),
    "padded": Manner(padding=200, pieces=3),
    "padding of one": Manner(padding=1, empty=True),
    "priority": Manner(priority=True),
    "continuations": Manner(continuations=9),
    "without Huffman": Manner(huffman=False, continuations=1),
    "noise": Manner(noise=True, pieces=20),
    "everything": Manner(5, True, 17, True, 4, True, True),
}
ANSWERS = {
    "ok": Message(((b":status", b"200"), (b"content-type", b"text/html")), BODY),
    "nothing": Message(((b":status", b"204"),)),
    "odd status": Message(((b":status", b"599"), (b"x-a", b"b"))),
    "hints": Message(
        ((b":status", b"200"),), BODY, None, None, (((b":status", b"103"), (b"link", b"</a>")), ((b":status", b"100"),))
    ),
    "grpc": Message(
        ((b":status", b"200"), (b"content-type", b"application/grpc")), b"\0\0\0\0\0", ((b"grpc-status", b"0"),)
    ),
    "trailers only": Message(((b":status", b"200"), (b"content-type", b"application/grpc"), (b"grpc-status", b"12"))),
    "broken off": Message(((b":status", b"200"),), b"part", None, 2),
}


class Conversation:
    """A client's bytes and upstreams' bytes through a router, in pieces that `random` decides on."""

    def __init__(self, seed: int | None) -> None:
        self.hop = RecordedHop()
        self.router = Http2(self.hop, b"", False)
        self.random = random.Random(seed) if seed is not None else None

    def cut(self, data: bytes) -> list[bytes]:
        if self.random is None:
            return [data]
        pieces = []
        while data:
            size = self.random.choice([1, 3, 9, 50, 1000, 20_000])
            pieces.append(data[:size])
            data = data[size:]
        return pieces

    def request(self, data: bytes) -> None:
        for piece in self.cut(data):
            self.router.client_data(piece)

    def answer(self, upstream: Recorded, data: bytes) -> None:
        for piece in self.cut(data):
            self.router.upstream_data(upstream, piece)

    @property
    def upstreams(self) -> list[Recorded]:
        return [self.hop.default, *self.hop.laptops]


def for_user(message: Message, user: bytes) -> Message:
    return Message((*message.fields, (b"x-user", user)), *list(message.__dict__.values())[1:]) if user else message


def exchange(
    requests: list[tuple[Message, Manner]],
    answers: list[tuple[Message, Manner]],
    acknowledged: int,
    seed: int | None = None,
    interleave: bool = False,
) -> None:
    """Say all requests at once, then all answers, and compare what arrives.

    `acknowledged`: before which message our SETTINGS are; headers before it may refer to earlier ones.
    """
    talk, writer = Conversation(seed), Writer()
    said = writer.begin(client=True)
    streams = []
    for number, (message, manner) in enumerate(requests):
        frames = writer.message(2 * number + 1, message, manner)
        if number == acknowledged:
            # The encoder forgets its table with the next block: it comes after the acknowledgement.
            frames = [writer.acknowledge(), *writer.message(2 * number + 1, message, manner)]
        if interleave and number != acknowledged:
            streams.append(frames)
        else:
            said += b"".join(itertools.chain(*streams))
            streams = []
            said += b"".join(frames)
    talk.request(said + b"".join(itertools.chain(*streams)))

    wanted: dict[str, list[Message]] = {}
    places = []
    for message, _ in requests:
        user = dict(message.fields).get(b"x-user", b"").decode()
        place = f"uid-{user}" if user else "app"
        wanted.setdefault(place, []).append(message)
        places.append((place, len(wanted[place])))
    found = {upstream.name: read(upstream.data) for upstream in talk.upstreams if upstream.data}
    assert {name: seen.whole for name, seen in found.items() if seen.messages} == wanted
    assert len({upstream.name for upstream in talk.upstreams}) == len(talk.upstreams), "one connection each"

    writers: dict[str, Writer] = {}
    expected = {}
    for number, (place, nth) in enumerate(places):
        if requests[number][0].reset is not None:
            continue
        upstream = next(each for each in talk.upstreams if each.name == place)
        data = b""
        if place not in writers:
            writers[place] = Writer()
            data = writers[place].begin(client=False) + writers[place].acknowledge()
        answer, manner = answers[number % len(answers)]
        data += b"".join(writers[place].message(2 * nth - 1, answer, manner))
        talk.answer(upstream, data)
        expected[2 * number + 1] = answer
    heard = read(talk.hop.client.data)
    assert {stream: seen.message() for stream, seen in heard.messages.items()} == expected
    assert not heard.goaways
    assert not talk.hop.client.over
    assert not talk.router._book.streams
    assert talk.router._book.parked.bytes == talk.router._book.parked.kept == 0


@pytest.mark.parametrize("manner", MANNERS)
@pytest.mark.parametrize("acknowledged", [0, 1, 99], ids=["without a table", "then without", "with a table"])
def test_every_message_in_every_manner(manner: str, acknowledged: int) -> None:
    """Each twice, so that header tables come into play; for the app, and for a laptop."""
    how = MANNERS[manner]
    for message in REQUESTS.values():
        for user in (b"", b"ada"):
            one = for_user(message, user)
            exchange([(one, how), (one, how)], [(answer, how) for answer in ANSWERS.values()], acknowledged)


@pytest.mark.parametrize("manner", MANNERS)
def test_every_answer_in_every_manner(manner: str) -> None:
    requests = [(for_user(REQUESTS[name], user), Manner()) for name in ("get", "post") for user in (b"", b"ada")]
    for answer in ANSWERS.values():
        exchange(requests, [(answer, MANNERS[manner])], 0)


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("manner", ["plain", "continuations", "padded"])
def test_large_heads(name: str, manner: str) -> None:
    large = Message(((b":status", b"200"), *((b"set-cookie", b"c%d=" % n + b"v" * 500) for n in range(60))), BODY * 4)
    for user in (b"", b"ada"):
        for acknowledged in (0, 99):
            one = (for_user(LARGE[name], user), MANNERS[manner])
            exchange([one, one], [(large, MANNERS[manner])], acknowledged)


_manners = st.builds(
    Manner,
    pieces=st.integers(1, 9),
    empty=st.booleans(),
    padding=st.sampled_from([0, 0, 1, 30, 255]),
    priority=st.booleans(),
    continuations=st.sampled_from([0, 0, 1, 5]),
    huffman=st.booleans(),
    noise=st.booleans(),
)
_requests = st.tuples(
    st.builds(for_user, st.sampled_from(list(REQUESTS.values())), st.sampled_from([b"", b"", b"ada", b"eve"])), _manners
)
_answers = st.tuples(st.sampled_from(list(ANSWERS.values())), _manners)


@settings(max_examples=500, deadline=None)
@given(
    st.lists(_requests, min_size=1, max_size=6),
    st.lists(_answers, min_size=1, max_size=6),
    st.integers(0, 6),
    st.none() | st.integers(0, 2**32),
)
def test_any_conversation_in_any_pieces(
    requests: list[tuple[Message, Manner]],
    answers: list[tuple[Message, Manner]],
    acknowledged: int,
    seed: int | None,
) -> None:
    exchange(requests, answers, acknowledged, seed)
