"""The framing of port-forwards."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tproxy.kube import channels
from tproxy.kube.channels import Close, Data, Decoder, Ping, ProtocolError


def frame(opcode: int, payload: bytes, final: bool = True) -> bytes:
    """As a server sends it: unmasked."""
    length = len(payload)
    if length < 126:
        size = bytes([length])
    elif length < 1 << 16:
        size = b"\x7e" + length.to_bytes(2, "big")
    else:
        size = b"\x7f" + length.to_bytes(8, "big")
    return bytes([0x80 * final | opcode]) + size + payload


def decode(stream: bytes, cuts: list[int] | None = None) -> tuple[dict[int, bytes], list[object]]:
    """Bytes by channel, and the other events, of `stream` cut at `cuts`."""
    decoder, data, others = Decoder(), dict[int, bytes](), list[object]()
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts or ()), len(stream)]
    for start, end in itertools.pairwise(edges):
        for event in decoder.feed(stream[start:end]):
            if isinstance(event, Data):
                data[event.channel] = data.get(event.channel, b"") + bytes(event.payload)
            else:
                others.append(event)
    return data, others


cuts = st.lists(st.integers(0, 400), max_size=20)
messages = st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=200)), max_size=8)


@given(messages, cuts)
def test_payload_arrives_by_channel_however_the_stream_is_cut(sent: list[tuple[int, bytes]], where: list[int]) -> None:
    stream = b"".join(frame(2, bytes([channel]) + payload) for channel, payload in sent)
    expected: dict[int, bytes] = {}
    for channel, payload in sent:
        if payload:
            expected[channel] = expected.get(channel, b"") + payload
    assert decode(stream, where) == (expected, [])


@given(st.binary(min_size=1, max_size=200), st.lists(st.integers(0, 200), max_size=4), cuts)
def test_fragments_and_what_comes_between_them(message: bytes, splits: list[int], where: list[int]) -> None:
    edges = [0, *sorted(min(split, len(message)) for split in splits), len(message)]
    parts = [message[start:end] for start, end in itertools.pairwise(edges)]
    stream = b""
    for index, part in enumerate(parts):
        stream += frame(2 if index == 0 else 0, part, final=index == len(parts) - 1) + frame(9, b"?")
    data, others = decode(stream, where)
    assert data.get(message[0], b"") == message[1:]
    assert others == [Ping(b"?")] * len(parts)


@pytest.mark.parametrize("size", [0, 1, 124, 125, 126, 65534, 65535, 65536, 300_000])
def test_lengths_both_ways(size: int) -> None:
    payload = bytes(range(256)) * (size // 256 + 1)
    payload = payload[:size]
    data, _ = decode(frame(2, b"\x00" + payload))
    assert data.get(0, b"") == payload
    assert _received(channels.message(0, payload)) == (2, b"\x00" + payload)


def _received(stream: bytes) -> tuple[int, bytes]:
    """Opcode and payload of the one masked frame in `stream`, by the book (RFC 6455, 5.2)."""
    first, second = stream[:2]
    assert first & 0xF0 == 0x80, "final, no reserved bits"
    assert second & 0x80, "masked"
    extra = {126: 2, 127: 8}.get(second & 0x7F, 0)
    length = int.from_bytes(stream[2 : 2 + extra], "big") if extra else second & 0x7F
    assert extra == (0 if length < 126 else 2 if length < 1 << 16 else 8), "the shortest form"
    mask, body = stream[2 + extra : 6 + extra], stream[6 + extra :]
    assert len(body) == length
    return first & 0x0F, bytes(byte ^ mask[index % 4] for index, byte in enumerate(body))


def test_what_we_send_is_masked_and_never_twice_the_same_way() -> None:
    first, second = channels.message(0, b"hello"), channels.message(0, b"hello")
    assert first[1] & 0x80
    assert first[2:6] != second[2:6]
    assert b"hello" not in first


def test_control_frames() -> None:
    assert _received(channels.pong(b"abc")) == (10, b"abc")
    assert _received(channels.close()) == (8, (1000).to_bytes(2, "big"))
    assert decode(frame(9, b"x" * 125) + frame(10, b"late") + frame(8, b"\x03\xe8"))[1] == [Ping(b"x" * 125), Close()]


@pytest.mark.parametrize(
    ("stream", "says"),
    [
        (frame(1, b"text"), "unexpected opcode 1"),
        (frame(3, b""), "unexpected opcode 3"),
        (frame(11, b""), "unexpected opcode 11"),
        (frame(0, b"x"), "a fragment without a beginning"),
        (frame(2, b"x", final=False) + frame(2, b"x"), "a beginning without an end"),
        (channels.message(0, b"x"), "a masked one"),
        (b"\xc2\x01x", "reserved bits"),
        (b"\x89\x7e\x00\x7e" + b"x" * 126, "an oversized"),
        (b"\x09\x00", "fragmented control frame"),
        (b"\x82\x7f" + b"\xff" * 8, "a frame longer than there can be"),
    ],
)
def test_what_is_refused(stream: bytes, says: str) -> None:
    with pytest.raises(ProtocolError, match=says):
        decode(stream)


@given(st.binary(max_size=300), cuts)
def test_garbage_is_refused_or_harmless(stream: bytes, where: list[int]) -> None:
    try:
        data, _ = decode(stream, where)
    except ProtocolError:
        return
    assert sum(map(len, data.values())) <= len(stream)


def test_a_message_is_not_held_until_it_is_whole() -> None:
    decoder = Decoder()
    head = b"\x82\x7f" + (1 << 40).to_bytes(8, "big") + b"\x00"
    assert decoder.feed(head) == []
    for _ in range(3):
        (event,) = decoder.feed(b"x" * 1000)
        assert isinstance(event, Data)
        assert len(event.payload) == 1000
