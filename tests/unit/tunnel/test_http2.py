"""A gRPC call on an HTTP/2 connection: the two halves joined by hand, cut anywhere, and faced with what is wrong."""

import os
from collections.abc import Callable

import hpack
import pytest

from tproxy.http.h2 import frames
from tproxy.http.h2.frames import FaultError
from tproxy.rpc import http2, status
from tproxy.rpc.calls import METHOD, ClientCall, ServerCall
from tproxy.rpc.http2 import Call
from tproxy.rpc.messages import TooLongError

MESSAGES = [b"", b"a", os.urandom(70_000), os.urandom(3_000_000), b"last"]


class Heard:
    """What one side has heard."""

    def __init__(self, call: Call) -> None:
        self.messages: list[bytes] = []
        self.ends: list[tuple[int | None, str]] = []
        self.requests = 0
        call.incoming.on_message = self.messages.append
        call.on_end = lambda *end: self.ends.append(end)
        if isinstance(call, ServerCall):
            call.on_request = self._requested

    def _requested(self) -> None:
        self.requests += 1


class Joined:
    """A laptop and a node, `piece` bytes at a time."""

    def __init__(self, piece: int = 1 << 30) -> None:
        self.laptop, self.node = ClientCall("node", "test", "http"), ServerCall()
        self.at_laptop, self.at_node = Heard(self.laptop), Heard(self.node)
        self._piece = piece

    def settle(self) -> None:
        """Carry bytes until neither has anything to say."""
        while self.laptop.output or self.node.output:
            self.carry(self.laptop, self.node)
            self.carry(self.node, self.laptop)

    def carry(self, sender: Call, receiver: Call) -> None:
        """One way."""
        data, sender.output = b"".join(sender.output), []
        for at in range(0, len(data), self._piece):
            receiver.receive(data[at : at + self._piece])


@pytest.mark.parametrize("piece", [1, 7, 65_536, 1 << 30])
def test_messages_both_ways_cut_anywhere(piece: int) -> None:
    messages = MESSAGES if piece > 7 else [message[:5000] for message in MESSAGES]
    both = Joined(piece)
    both.settle()
    assert both.at_node.requests == 1
    for sender, heard in ((both.laptop, both.at_node), (both.node, both.at_laptop)):
        for message in messages:
            sender.send(message)
            both.settle()
            assert not sender.blocked
        assert heard.messages == messages


def test_a_message_waits_for_the_window() -> None:
    """Nothing is sent that the peer has not granted; what was held back follows when it has."""
    both = Joined()
    both.laptop.send(bytes(frames.DEFAULT_WINDOW))  # with its prefix five bytes more than fit
    assert both.laptop.blocked
    assert sum(map(len, both.laptop.output)) < frames.DEFAULT_WINDOW + 1000
    both.settle()
    assert not both.laptop.blocked
    assert both.at_node.messages == [bytes(frames.DEFAULT_WINDOW)]


def test_the_window_is_renewed_for_as_long_as_it_takes() -> None:
    both = Joined()
    both.settle()
    for _ in range(3 * http2.WINDOW // 4_000_000):
        both.node.send(bytes(4_000_000))
        both.settle()
    assert len(both.at_laptop.messages) == 3 * http2.WINDOW // 4_000_000


def test_the_node_says_how_it_ended() -> None:
    details = "stopping: 100 % done, ä\n"
    for before in ([], [b"welcome"]):
        both = Joined()
        both.settle()
        for message in before:
            both.node.send(message)
        both.node.end(status.ABORTED, details)
        both.settle()
        assert both.at_laptop.messages == before
        assert both.at_laptop.ends == [(status.ABORTED, details)]


def test_a_laptop_that_hangs_up_is_heard_once() -> None:
    both = Joined()
    both.settle()
    both.laptop.reset(frames.CANCEL)
    both.laptop.reset(frames.CANCEL)
    both.settle()
    assert both.at_node.ends == [(status.CANCELLED, "")]


def test_a_message_that_is_too_long_is_not_collected() -> None:
    both = Joined()
    both.node.incoming.limit = 10
    both.settle()
    both.laptop.send(bytes(11))
    with pytest.raises(TooLongError):
        both.settle()


def request(*more: tuple[str, str], block: Callable[[bytes], bytes] = lambda block: block) -> bytes:
    """A request as HEADERS."""
    fields = [(":method", "POST"), (":path", METHOD), (":scheme", "http"), *more]
    return frames.headers(1, block(hpack.Encoder().encode(fields)), end_stream=False)


START = frames.PREFACE + frames.settings({})
FAULTS = {
    "no preface": b"GET / HTTP/1.1\r\n\r\n",
    "DATA of no stream": START + frames.frame(frames.DATA, 0, 1, b"x"),
    "DATA of another stream": START + request() + frames.frame(frames.DATA, 0, 3, b"x"),
    "a second call": START + request() + request().replace(b"\0\0\0\1", b"\0\0\0\3", 1),
    "a second request on a stream": START + request() + request(),
    "a stream of the server's": START + frames.frame(frames.HEADERS, frames.END_HEADERS, 2),
    "a compressed message": START + request() + frames.frame(frames.DATA, 0, 1, b"\1\0\0\0\1x"),
    "padding longer than the frame": START + request() + frames.frame(frames.DATA, frames.PADDED, 1, b"\7ab"),
    "a window of nothing": START + frames.window_update(0, 0),
    "a window too wide": START + frames.window_update(0, frames.MAX_WINDOW),
    "WINDOW_UPDATE of no stream": START + frames.window_update(5, 1),
    "RST_STREAM of no stream": START + frames.rst_stream(1, 0),
    "SETTINGS of odd length": START + frames.frame(frames.SETTINGS, 0, 0, b"12345"),
    "SETTINGS of a stream": START + frames.frame(frames.SETTINGS, 0, 1),
    "frames that are too small": START + frames.settings({frames.MAX_FRAME_SIZE: 1}),
    "PING of another length": START + frames.frame(frames.PING, 0, 0, b"1234"),
    "GOAWAY too short": START + frames.frame(frames.GOAWAY, 0, 0, b"1234"),
    "PUSH_PROMISE": START + frames.frame(frames.PUSH_PROMISE, 0, 1, bytes(4)),
    "CONTINUATION of nothing": START + frames.frame(frames.CONTINUATION, frames.END_HEADERS, 1),
    "a block cut off by DATA": START + frames.frame(frames.HEADERS, 0, 1) + frames.frame(frames.DATA, 0, 1),
    "a block cut off by PING": START + frames.frame(frames.HEADERS, 0, 1) + frames.frame(frames.PING, 0, 0, bytes(8)),
    "continued for ever": START + frames.frame(frames.HEADERS, 0, 1) + frames.frame(frames.CONTINUATION, 0, 1) * 20,
    "a block that is too long": START
    + frames.frame(frames.HEADERS, 0, 1, bytes(16_000))
    + frames.frame(frames.CONTINUATION, 0, 1, bytes(16_000)),
    "fields that are too long": START + request(*[("x", "y" * 4000)] * 3),
    "fields that cannot be read": START + request(block=lambda block: block + b"\xff\xff\xff\xff\xff"),
    "a frame that is too long": START + frames.head(frames.HEADERS, 0, 1, frames.MAX_FRAME + 1),
    "DATA that is too long": START + request() + frames.head(frames.DATA, 0, 1, http2.MAX_FRAME_BYTES + 1),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("piece", [1, 1 << 30])
def test_what_breaks_the_protocol_ends_the_connection(name: str, piece: int) -> None:
    def hear(node: ServerCall, data: bytes) -> None:
        for at in range(0, len(data), piece):
            node.receive(data[at : at + piece])

    with pytest.raises(FaultError):
        hear(ServerCall(), FAULTS[name])


def test_data_beyond_the_window() -> None:
    node = ServerCall()
    node.incoming.limit = 1 << 30
    node.receive(START + request())
    node._window = 100  # as it is just before it is renewed
    with pytest.raises(FaultError, match="beyond the window"):
        node.receive(frames.head(frames.DATA, 0, 1, 101))


def test_padded_data_and_frames_of_tomorrow() -> None:
    node = ServerCall()
    heard = Heard(node)
    node.receive(START + request() + frames.frame(0x2A, 0xFF, 9, b"?") + frames.frame(frames.PRIORITY, 0, 1, bytes(5)))
    node.receive(frames.frame(frames.DATA, frames.PADDED, 1, b"\2\0\0\0\0\1x" + bytes(2)))
    assert heard.messages == [b"x"]
    node.receive(frames.frame(frames.DATA, frames.END_STREAM, 1))
    assert heard.ends == [(None, "")]


def test_a_ping_is_answered_and_settings_are_acknowledged() -> None:
    node = ServerCall()
    node.output.clear()
    node.receive(START + frames.frame(frames.PING, 0, 0, b"12345678"))
    assert node.output == [
        frames.frame(frames.SETTINGS, frames.ACK, 0),
        frames.frame(frames.PING, frames.ACK, 0, b"12345678"),
    ]


@pytest.mark.parametrize("change", [(":method", "GET"), (":path", "/grpc.health.v1.Health/Check")])
def test_there_is_only_the_tunnel(change: tuple[str, str]) -> None:
    both = Joined()
    fields = dict([(":method", "POST"), (":path", METHOD), change])
    both.node.receive(START + frames.headers(1, hpack.Encoder().encode(list(fields.items())), end_stream=False))
    assert both.at_node.requests == 0
    both.laptop.output.clear()
    both.settle()
    assert both.at_laptop.ends == [(status.UNIMPLEMENTED, "there is no such method")]


def test_random_bytes_raise_nothing_else() -> None:
    for seed in range(300):
        node = ServerCall()
        data = START + (request() if seed % 2 else b"") + os.urandom(200)
        try:
            node.receive(data)
        except (FaultError, TooLongError):
            continue
