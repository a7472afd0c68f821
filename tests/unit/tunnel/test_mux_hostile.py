"""A peer that breaks the rules ends the stream with a reason, or its own connection; never more than that."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.tunnel.joined import BATCH, REQUEST, Joined, recorder
from tproxy.model.flow import ResetReason
from tproxy.rpc.v1 import tunnel_pb2 as pb
from tproxy.tunnel import hello, outbox, wire
from tproxy.tunnel.conn import MAX_DATAGRAM
from tproxy.tunnel.credit import BUDGET, EARLY_CREDIT, MIN_WINDOW, START_WINDOW
from tproxy.tunnel.mux import MAX_CONNECTIONS, MAX_CREDIT, Mux, ProtocolError


def data(conn: int, payload: bytes) -> bytes:
    """DATA as the outbox writes it."""
    return wire.data_header(wire.data_prefix(conn), len(payload)) + payload


def message(**fields: object) -> bytes:
    """Any frame, as protobuf writes it."""
    return pb.Batch(frames=[pb.Frame(**fields)]).SerializeToString()  # type: ignore[arg-type]


OPEN_2 = wire.open_frame(2, REQUEST, 0)


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([data(4, b"x")], "never opened"),
        ([data(1, b"x")], "never opened"),
        ([wire.credit_frame(0, 5)], "never opened"),
        ([wire.fin_frame(2)], "never opened"),
        ([wire.open_frame(1, REQUEST, 0)], "not the next"),
        ([wire.open_frame(0, REQUEST, 0)], "not the next"),
        ([OPEN_2, OPEN_2], "not the next"),
        ([wire.open_frame(4, REQUEST, 0), OPEN_2], "not the next"),
        ([OPEN_2, wire.reset_frame(2, ResetReason.RESET, ""), OPEN_2], "not the next"),
        ([OPEN_2, data(2, bytes(START_WINDOW)), data(2, b"x")], "beyond credit"),
        ([OPEN_2, wire.fin_frame(2), data(2, b"x")], "after FIN"),
        ([OPEN_2, wire.fin_frame(2), wire.fin_frame(2)], "after FIN"),
        ([OPEN_2, wire.opened_frame(2, 5)], "waits for none"),
        ([OPEN_2, wire.credit_frame(2, MAX_CREDIT), wire.credit_frame(2, 1)], "too much credit"),
        ([wire.open_frame(2, REQUEST, MAX_CREDIT + 1)], "too much credit"),
        ([OPEN_2, wire.datagram_frame(2, bytes(MAX_DATAGRAM + 1))], "too long"),
        ([message(conn=2, data=b"")], "never opened"),
        ([OPEN_2, message(conn=2, data=b"")], "unknown form"),
        ([OPEN_2, message(conn=2)], "malformed"),
        ([OPEN_2, message(conn=2) + wire.ping_frame(1)], "does not belong"),
        ([message(conn=2, ping=5)], "PING of a connection"),
        ([message(conn=2, pong=5)], "PING of a connection"),
        ([message()], "never opened"),
        ([b"\x0a\x00"], "never opened"),
        ([hello.encode_hello(hello.Hello("ns", "s", bytes(32)))], "never opened"),
        ([hello.encode_welcome(hello.Welcome(1, "n"))], "never opened"),
        ([OPEN_2, message(conn=2, hello=pb.Hello(version=1))], "does not belong"),
        ([message(conn=2, open=pb.Open(kind=pb.Open.KIND_DIAL))], "address"),
        ([wire.open_frame(2, REQUEST, 0)[:-3]], "truncated"),
        ([b"\x12\x00"], "unknown field"),
        ([b"GET / HTTP/1.1\r\n"], "unknown field"),
        ([message(conn=2, open=pb.Open(pod="p" * 5000))], "too long"),
    ],
    ids=repr,
)
def test_what_ends_the_stream(frames: list[bytes], reason: str) -> None:
    joined = Joined(lazy=True)
    with pytest.raises(ProtocolError, match=reason):
        joined.laptop.receive(b"".join(frames))
    joined.laptop.lost("protocol error")
    assert not joined.laptop.conns
    assert joined.laptop.budget.free == BUDGET


def test_before_it_is_accepted_a_connection_takes_only_the_first_bytes() -> None:
    joined = Joined(lazy=True)
    joined.accepting = False
    joined.laptop.receive(OPEN_2 + data(2, bytes(EARLY_CREDIT)))
    with pytest.raises(ProtocolError, match="beyond credit"):
        joined.laptop.receive(data(2, b"x"))


def test_a_pong_to_no_ping_means_nothing() -> None:
    joined = Joined()
    joined.laptop.receive(wire.pong_frame(5))
    assert joined.laptop.rtt == 0.0
    joined.laptop.tick()
    joined.laptop.receive(wire.pong_frame(12345))
    assert joined.laptop.rtt == 0.0


def test_a_flood_of_pings_is_answered_once() -> None:
    joined = Joined()
    for value in range(10_000):
        joined.laptop.receive(wire.ping_frame(value))
    assert joined.laptop.outbox.take(BATCH) == wire.pong_frame(9999)


def test_opening_without_end_and_without_reading_ends_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "CONTROL_LIMIT", 100_000)
    joined = Joined()
    flood = b"".join(wire.open_frame(number, REQUEST, 0) for number in range(2, 20_000, 2))
    with pytest.raises(ProtocolError, match="no answers are read"):
        joined.laptop.receive(flood)
    assert len(joined.laptop.conns) <= MAX_CONNECTIONS
    assert len(joined.laptop.outbox.take(BATCH)) <= outbox.CONTROL_LIMIT + 1000


def test_opening_and_resetting_without_end_holds_nothing() -> None:
    joined = Joined()
    for number in range(2, 5_000, 2):
        joined.laptop.receive(
            wire.open_frame(number, REQUEST, 0) + data(number, b"x") + wire.reset_frame(number, ResetReason.RESET, "")
        )
        joined.laptop.outbox.take(BATCH)
        joined.served.clear()
    assert not joined.laptop.conns
    assert joined.laptop.budget.free == BUDGET
    assert joined.laptop.outbox.queued == 0


def test_everything_a_peer_can_make_us_hold_has_a_bound() -> None:
    """It opens all it may, fills every window, and no sink consumes a byte."""
    joined = Joined(lazy=True)
    held = 0
    for number in range(2, 2 * MAX_CONNECTIONS + 2, 2):
        joined.laptop.receive(wire.open_frame(number, REQUEST, 0))
        window = joined.laptop.conns[number]._window
        joined.laptop.receive(data(number, bytes(window.held)))
        held += recorder(joined.served[-1]).unconsumed
        joined.served[-1].sink.data.clear()  # type: ignore[attr-defined]  # only the sizes matter here
        joined.laptop.outbox.take(BATCH)
    assert held <= BUDGET + MAX_CONNECTIONS * MIN_WINDOW


def test_a_sink_that_never_reads_its_pause_is_bounded_for_all_connections_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outbox, "HARD_LIMIT", 10_000_000)
    joined = Joined()
    conns = [joined.open()[0] for _ in range(20)]
    for _ in range(30):
        for conn in conns:
            conn.write(bytes(30_000))
    assert joined.node.outbox.queued <= 10_000_000 + 30_000
    assert any(conn.closed for conn in conns)


FRAMES = st.one_of(
    st.builds(wire.open_frame, st.integers(0, 12), st.just(REQUEST), st.integers(0, 2**32 - 1)),
    st.builds(wire.opened_frame, st.integers(0, 12), st.integers(0, 2**32 - 1)),
    st.builds(wire.credit_frame, st.integers(0, 12), st.integers(0, 2**32 - 1)),
    st.builds(wire.fin_frame, st.integers(0, 12)),
    st.builds(wire.reset_frame, st.integers(0, 12), st.sampled_from(ResetReason), st.text(max_size=20)),
    st.builds(data, st.integers(0, 12), st.binary(min_size=1, max_size=40_000)),
    st.builds(wire.datagram_frame, st.integers(0, 12), st.binary(max_size=50)),
    st.builds(wire.ping_frame, st.integers(0, 2**64 - 1)),
    st.builds(wire.pong_frame, st.integers(0, 2)),
    st.binary(max_size=20),
)


@given(st.lists(st.lists(FRAMES, max_size=6), max_size=12), st.booleans(), st.booleans())
def test_whatever_comes_only_protocol_errors_come_out(batches: list[list[bytes]], lazy: bool, accepting: bool) -> None:
    joined = Joined(lazy)
    joined.accepting = accepting
    own, _ = joined.open("laptop")
    own.write(bytes(100_000))
    side: Mux = joined.laptop
    with suppress(ProtocolError):
        for batch in batches:
            side.receive(b"".join(batch))
            side.tick()
            side.outbox.take(4096)
            for conn in joined.served:
                conn.write(b"answer")
    side.lost("end")
    assert not side.conns
    assert side.budget.free + 0 <= BUDGET
    assert side.outbox.queued == 0
