"""Frames as bytes: the short way for DATA and protobuf agree, and nothing but frames comes out of any bytes."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.tunnel.joined import REQUEST
from tproxy.model.flow import NOWHERE, Address, FlowKind, OpenRequest, ResetReason
from tproxy.rpc.v1 import tunnel_pb2 as pb
from tproxy.tunnel import wire

NUMBERS = st.integers(1, 2**32 - 1)


def data_frame(conn: int, data: bytes) -> bytes:
    """DATA as the outbox writes it."""
    return wire.data_header(wire.data_prefix(conn), len(data)) + data


@given(st.lists(st.tuples(NUMBERS, st.binary(min_size=1, max_size=300))))
def test_data_is_what_protobuf_would_write(frames: list[tuple[int, bytes]]) -> None:
    ours = b"".join(data_frame(conn, data) for conn, data in frames)
    theirs = pb.Batch(frames=[pb.Frame(conn=conn, data=data) for conn, data in frames]).SerializeToString()
    assert ours == theirs
    assert [(conn, bytes(data)) for conn, data in wire.frames(theirs) if not isinstance(data, pb.Frame)] == frames


@pytest.mark.parametrize("size", [1, 127, 128, 16383, 16384, 2**21 - 1, 2**21])
@pytest.mark.parametrize("conn", [1, 127, 128, 16384, 2**28, 2**32 - 1])
def test_every_length_of_integer(conn: int, size: int) -> None:
    batch = data_frame(conn, bytes(size)) + wire.ping_frame(7)
    assert batch == pb.Batch(frames=[pb.Frame(conn=conn, data=bytes(size)), pb.Frame(ping=7)]).SerializeToString()
    (number, data), (_, ping) = wire.frames(batch)
    assert number == conn
    assert not isinstance(data, pb.Frame)
    assert bytes(data) == bytes(size)
    assert isinstance(ping, pb.Frame)
    assert ping.ping == 7


def test_data_holds_on_to_no_batch_much_larger_than_itself() -> None:
    small, large = data_frame(1, b"x" * 10), data_frame(3, b"y" * 1000)
    [(_, first), (_, second)] = wire.frames(small + large)
    assert isinstance(first, bytes)
    assert isinstance(second, memoryview)


def test_control_frames_survive() -> None:
    batch = b"".join(
        (
            wire.open_frame(2, REQUEST, 1000),
            wire.opened_frame(2, 2000),
            wire.credit_frame(2, 3000),
            wire.fin_frame(2),
            wire.reset_frame(2, ResetReason.REFUSED, "x" * 1000),
            wire.datagram_frame(2, b"hello"),
            wire.ping_frame(2**64 - 1),
            wire.pong_frame(0),
        )
    )
    frames = [frame for _, frame in wire.frames(batch)]
    assert all(isinstance(frame, pb.Frame) for frame in frames)
    opened, accepted, credit, fin, reset, datagram, ping, pong = (f for f in frames if isinstance(f, pb.Frame))
    assert wire.open_request(opened.open) == REQUEST
    assert (opened.open.credit, accepted.opened.credit, credit.credit) == (1000, 2000, 3000)
    assert fin.WhichOneof("body") == "fin"
    assert wire.reset_reason(reset.reset) == (ResetReason.REFUSED, "x" * wire.MAX_DETAIL_CHARACTERS)
    assert datagram.datagram == b"hello"
    assert ping.ping == 2**64 - 1
    assert pong.WhichOneof("body") == "pong"


@given(
    st.builds(
        OpenRequest,
        st.sampled_from(FlowKind),
        st.builds(Address, st.text("abc.:0123456789", min_size=1, max_size=253), st.integers(0, 65535)),
        st.none() | st.builds(Address, st.just("::1"), st.integers(0, 65535)),
        st.text(max_size=100),
        st.text(max_size=100),
        st.sampled_from(["tcp", "udp"]),
        st.text(max_size=100),
    )
    | st.builds(
        OpenRequest, st.just(FlowKind.READ), st.just(NOWHERE), pod=st.just("shop/web"), container=st.text(max_size=100)
    )
)
def test_an_open_request_survives(request: OpenRequest) -> None:
    [(_, frame)] = wire.frames(wire.open_frame(1, request, 0))
    assert isinstance(frame, pb.Frame)
    assert wire.open_request(frame.open) == request


@pytest.mark.parametrize(
    "body",
    [
        pb.Open(destination=pb.Address(host="a", port=1)),
        pb.Open(kind=77, destination=pb.Address(host="a", port=1)),
        pb.Open(kind=pb.Open.KIND_DIAL),
        pb.Open(kind=pb.Open.KIND_DIAL, destination=pb.Address(host="a", port=65536)),
        pb.Open(kind=pb.Open.KIND_DIAL, destination=pb.Address(host="a" * 254, port=1)),
        pb.Open(kind=pb.Open.KIND_DIAL, destination=pb.Address(host="a", port=1), source=pb.Address(port=2)),
        pb.Open(kind=pb.Open.KIND_DIAL, destination=pb.Address(host="a", port=1), pod="p" * 513),
    ],
)
def test_an_open_that_makes_no_sense(body: pb.Open) -> None:
    with pytest.raises(wire.WireError):
        wire.open_request(body)


def test_a_reason_of_a_newer_peer_is_a_reset_and_details_are_printable() -> None:
    assert wire.reset_reason(pb.Reset(reason=99, detail="a\x1b[31mb\n")) == (ResetReason.RESET, "a[31mb")


@given(st.binary(max_size=200))
def test_any_bytes_are_frames_or_an_error(batch: bytes) -> None:
    with suppress(wire.WireError):
        for conn, frame in wire.frames(batch):
            assert 0 <= conn < 2**35
            assert isinstance(frame, pb.Frame) or frame


@given(st.data())
def test_damaged_batches_are_frames_or_an_error(data: st.DataObject) -> None:
    batch = bytearray(data_frame(5, b"some data") + wire.open_frame(6, REQUEST, 5) + data_frame(300, bytes(200)))
    for _ in range(data.draw(st.integers(1, 4))):
        batch[data.draw(st.integers(0, len(batch) - 1))] = data.draw(st.integers(0, 255))
    with suppress(wire.WireError):
        for _ in wire.frames(bytes(batch[: data.draw(st.integers(0, len(batch)))])):
            pass


def test_a_control_frame_is_bounded_before_it_is_parsed() -> None:
    with pytest.raises(wire.WireError):
        list(wire.frames(pb.Batch(frames=[pb.Frame(conn=1, reset=pb.Reset(detail="x" * 5000))]).SerializeToString()))
