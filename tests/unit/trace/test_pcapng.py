"""pcapng as it is written, read back by the format's rules."""

import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tproxy.trace import pcapng
from tproxy.trace.pcapng import Blocks

TIMES = st.integers(0, 2**64 - 1)
TEXTS = st.text(max_size=300)


def parsed(data: bytes) -> list[tuple[int, bytes]]:
    """Kind and body of each block, as the draft describes them."""
    found, at = [], 0
    while at < len(data):
        kind, length = struct.unpack_from("=II", data, at)
        assert length % 4 == 0
        assert struct.unpack_from("=I", data, at + length - 4) == (length,), "the length stands at both ends"
        found.append((kind, data[at + 8 : at + length - 4]))
        at += length
    assert at == len(data)
    return found


def options(data: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at < len(data):
        code, length = struct.unpack_from("=HH", data, at)
        if code == 0:
            assert (length, at + 4) == (0, len(data))
            return found
        found[code] = data[at + 4 : at + 4 + length]
        at += 4 + length + -length % 4
    assert not data, "options end with an end"
    return found


@given(TEXTS, TEXTS, TEXTS)
def test_section(application: str, system: str, comment: str) -> None:
    ((kind, body),) = parsed(pcapng.section(application, system, comment))
    assert kind == 0x0A0D0D0A
    assert struct.unpack_from("=IHHq", body) == (0x1A2B3C4D, 1, 0, -1)
    wanted = {1: comment, 3: system, 4: application}
    assert options(body[16:]) == {code: text.encode() for code, text in wanted.items() if text}


@given(TEXTS.filter(bool), st.integers(0, 65535), st.integers(0, 2**32 - 1), TEXTS)
def test_interface(name: str, link: int, snap_length: int, kept: str) -> None:
    ((kind, body),) = parsed(pcapng.interface(name, link, snap_length, kept))
    assert kind == 1
    assert struct.unpack_from("=HHI", body) == (link, 0, snap_length)
    found = options(body[8:])
    assert found[2] == name.encode()
    assert found[9] == b"\x09", "nanoseconds"
    assert found.get(11, b"\0")[1:] == kept.encode()


@given(st.integers(0, 7), TIMES, st.binary(max_size=70), st.integers(0, 100), st.sampled_from([0, 1, 2]))
def test_packet(number: int, time: int, data: bytes, cut: int, direction: int) -> None:
    ((kind, body),) = parsed(pcapng.packet(number, time, memoryview(data), len(data) + cut, direction))
    interface, high, low, kept, length = struct.unpack_from("=IIIII", body)
    assert (kind, interface, high << 32 | low, kept, length) == (6, number, time, len(data), len(data) + cut)
    assert body[20 : 20 + kept] == data
    rest = options(body[20 + kept + -kept % 4 :])
    assert rest == ({2: struct.pack("=I", direction)} if direction else {})


@given(st.integers(0, 7), TIMES, TIMES, TIMES)
def test_statistics(number: int, time: int, received: int, dropped: int) -> None:
    written = pcapng.statistics(number, time, received, dropped)
    ((kind, body),) = parsed(written)
    interface, high, low = struct.unpack_from("=III", body)
    assert (kind, interface, high << 32 | low) == (5, number, time)
    assert options(body[12:]) == {4: struct.pack("=Q", received), 5: struct.pack("=Q", dropped)}
    (block,) = Blocks().feed(written)
    assert block.statistics == (number, received, dropped)


def cut(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    for size in sizes:
        yield data[:size]
        data = data[size:]
    yield data


@given(st.lists(st.binary(max_size=50), max_size=8), st.lists(st.integers(0, 60), max_size=20))
def test_blocks_are_found_however_the_bytes_come(packets: list[bytes], sizes: list[int]) -> None:
    written = [pcapng.section("a", "b"), *(pcapng.packet(0, 1, data, len(data)) for data in packets)]
    reader = Blocks()
    found = [block for piece in cut(b"".join(written), sizes) for block in reader.feed(piece)]
    assert [block.data for block in found] == written
    assert all(block.statistics is None for block in found)


@given(st.binary(min_size=8))
def test_something_else_is_no_pcapng(data: bytes) -> None:
    """Whatever comes, no more is kept than a block may have."""
    try:
        for block in Blocks().feed(data):
            assert len(block.data) >= 12
    except ValueError:
        pass


def test_a_length_that_cannot_be() -> None:
    for length in (0, 11, 13, pcapng.MAX_BLOCK + 4, 2**32 - 4):
        with pytest.raises(ValueError, match="no pcapng"):
            list(Blocks().feed(struct.pack("=II", 6, length)))
