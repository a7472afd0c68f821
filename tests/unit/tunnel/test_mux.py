"""The rules of a connection inside the tunnel, one trace each."""

import pytest

from tests.unit.tunnel.joined import BATCH, REQUEST, Joined, Recorder, recorder
from tproxy.model.flow import ResetReason
from tproxy.tunnel import mux as mux_module
from tproxy.tunnel.conn import DATAGRAM_BYTES_QUEUED, DATAGRAMS_QUEUED, MAX_DATAGRAM
from tproxy.tunnel.credit import BUDGET, EARLY_CREDIT, START_WINDOW
from tproxy.tunnel.mux import DEAD_SECONDS, PING_SECONDS, Mux
from tproxy.tunnel.outbox import CONN_LIMIT, HIGH_MARK


@pytest.mark.parametrize("side", ["node", "laptop"])
def test_both_sides_open_and_talk(side: str) -> None:
    joined = Joined()
    conn, sink = joined.open(side)
    assert conn.id == {"laptop": 1, "node": 2}[side]
    peer = joined.served[-1]
    assert peer.request == REQUEST
    conn.write(b"hello")
    peer.write(b"welcome")
    joined.carry()
    assert bytes(recorder(peer).data) == b"hello"
    assert bytes(sink.data) == b"welcome"
    assert sink.events == ["opened"]


def test_the_first_bytes_need_no_answer_to_open() -> None:
    joined = Joined()
    joined.accepting = False
    conn, sink = joined.open()
    peer = joined.served[-1]
    recorder(peer).lazy = True
    conn.write(bytes(EARLY_CREDIT + 1000))
    joined.carry()
    assert len(recorder(peer).data) == EARLY_CREDIT
    assert conn.queued == 1000
    assert sink.events == []
    peer.accept()
    joined.carry()
    assert len(recorder(peer).data) == EARLY_CREDIT + 1000
    assert sink.events == ["opened"]


def test_a_server_that_speaks_first_is_heard_before_it_is_asked() -> None:
    joined = Joined()
    _, sink = joined.open()
    joined.served[-1].write(b"220 ready")
    joined.carry()
    assert bytes(sink.data) == b"220 ready"


def test_half_close_leaves_the_other_direction_open() -> None:
    joined = Joined()
    conn, sink = joined.open()
    peer = joined.served[-1]
    conn.write(b"request")
    conn.write_eof()
    joined.carry()
    assert recorder(peer).events == ["eof"]
    assert bytes(recorder(peer).data) == b"request"
    for _ in range(3):
        peer.write(b"answer")
        joined.carry()
    peer.write_eof()
    joined.carry()
    assert bytes(sink.data) == b"answer" * 3
    assert sink.events == ["opened", "eof"]
    assert conn.closed
    assert peer.closed
    assert not joined.node.conns
    assert not joined.laptop.conns


def test_both_sides_finish_at_once() -> None:
    joined = Joined()
    conn, sink = joined.open()
    peer = joined.served[-1]
    conn.write_eof()
    peer.write_eof()
    joined.carry()
    assert (sink.events, recorder(peer).events) == (["opened", "eof"], ["eof"])
    assert conn.closed
    assert peer.closed


def test_fin_waits_for_the_bytes_before_it() -> None:
    joined = Joined()
    conn, _ = joined.open()
    peer = joined.served[-1]
    recorder(peer).lazy = True
    size = START_WINDOW + 5000
    conn.write(bytes(size))
    conn.write_eof()
    joined.carry()
    assert "eof" not in recorder(peer).events
    recorder(peer).consume()
    joined.carry()
    assert recorder(peer).events == ["eof"]
    assert len(recorder(peer).data) == size


@pytest.mark.parametrize("reason", list(ResetReason))
def test_every_reason_arrives_as_itself(reason: ResetReason) -> None:
    joined = Joined()
    conn, sink = joined.open()
    joined.served[-1].reset(reason, "because")
    joined.carry()
    assert sink.events == ["opened", f"reset {reason.value} because"]
    assert conn.closed
    assert not joined.node.conns
    assert not joined.laptop.conns


def test_refused_before_it_was_accepted() -> None:
    joined = Joined()
    joined.accepting = False
    _, sink = joined.open()
    joined.served[-1].reset(ResetReason.REFUSED)
    joined.carry()
    assert sink.events == ["reset refused"]


def test_bytes_before_a_reset_arrive_before_it() -> None:
    joined = Joined()
    conn, sink = joined.open()
    peer = joined.served[-1]
    peer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    peer.reset()
    joined.carry()
    assert bytes(sink.data).startswith(b"HTTP/1.1 400")
    assert sink.events == ["opened", "reset reset"]
    assert conn.closed


def test_a_reset_does_not_wait_for_credit() -> None:
    joined = Joined()
    conn, _ = joined.open()
    peer = joined.served[-1]
    recorder(peer).lazy = True
    conn.write(bytes(START_WINDOW + 100_000))
    joined.carry()
    assert conn.queued == 100_000
    conn.reset()
    joined.carry()
    assert recorder(peer).events == ["reset reset"]
    assert joined.node.outbox.queued == 0


def test_frames_that_crossed_a_reset_are_ignored() -> None:
    joined = Joined()
    conn, sink = joined.open()
    peer = joined.served[-1]
    peer.write(b"on its way")
    peer.write_datagram(b"this too")
    peer.write_eof()
    conn.reset()
    joined.carry_to_node()
    joined.carry()
    assert bytes(sink.data) == b""
    assert sink.events == ["opened"]
    assert recorder(peer).events == ["reset reset"]


def test_nothing_is_said_about_a_connection_that_the_peer_has_reset() -> None:
    joined = Joined()
    conn, _ = joined.open()
    joined.served[-1].reset()
    conn.write(b"too late")
    conn.write_eof()
    joined.carry_to_node()
    assert joined.node.outbox.take(BATCH) == b""
    assert not joined.node.outbox.waiting


def test_frames_that_crossed_the_last_fin_are_ignored() -> None:
    joined = Joined()
    conn, _ = joined.open(lazy=True)
    peer = joined.served[-1]
    peer.write(bytes(START_WINDOW))
    peer.write_eof()
    conn.write_eof()
    joined.carry()
    assert conn.closed
    recorder_of_conn = conn.sink
    assert isinstance(recorder_of_conn, Recorder)
    recorder_of_conn.consume()  # no CREDIT for a connection that the peer has forgotten …
    assert joined.node.outbox.take(BATCH) == b""
    joined.laptop.receive(b"".join(_stale_frames(conn.id)))  # … but it would be harmless


def _stale_frames(number: int) -> list[bytes]:
    from tproxy.tunnel import wire

    return [
        wire.credit_frame(number, 5),
        wire.fin_frame(number),
        wire.opened_frame(number, 5),
        wire.reset_frame(number, ResetReason.RESET, ""),
        wire.datagram_frame(number, b"x"),
        wire.data_header(wire.data_prefix(number), 3) + b"abc",
    ]


def test_methods_of_a_dead_connection_do_nothing() -> None:
    joined = Joined()
    conn, _ = joined.open()
    conn.reset()
    joined.carry()
    conn.write(b"x")
    conn.write_eof()
    conn.accept()
    conn.consumed(5)
    conn.reset()
    assert not conn.write_datagram(b"x")
    assert not joined.node.outbox.waiting


def test_a_stalled_reader_stops_only_its_own_writer() -> None:
    joined = Joined()
    stalled, stalled_sink = joined.open()
    recorder(joined.served[-1]).lazy = True
    lively, _ = joined.open()
    lively_peer = recorder(joined.served[-1])
    while not stalled_sink.paused:
        stalled.write(bytes(64 * 1024))
        joined.carry()
    assert stalled.queued <= HIGH_MARK + 64 * 1024
    sent = 0
    for _ in range(200):
        lively.write(bytes(50_000))
        sent += 50_000
        joined.carry()
        assert len(lively_peer.data) == sent
    recorder(joined.peer_of(stalled)).lazy = False
    recorder(joined.peer_of(stalled)).consume()
    joined.carry()
    assert not stalled_sink.paused
    assert stalled.queued == 0


def test_whoever_ignores_the_pause_is_reset_on_both_sides() -> None:
    joined = Joined()
    conn, sink = joined.open()
    peer = recorder(joined.served[-1])
    peer.lazy = True
    joined.carry()
    for _ in range(CONN_LIMIT // 100_000 + 10):
        conn.write(bytes(100_000))
    assert conn.closed
    assert sink.events[-1].startswith("reset limit")
    joined.carry()
    assert peer.events[-1].startswith("reset limit")
    assert joined.node.outbox.queued == 0


def test_a_lost_stream_resets_everything() -> None:
    joined = Joined()
    sinks = [joined.open()[1] for _ in range(3)]
    joined.node.lost("the cable")
    assert all(sink.events[-1] == "reset tunnel-lost the cable" for sink in sinks)
    assert not joined.node.conns
    assert joined.node.budget.free == BUDGET


def test_a_sink_may_end_other_connections_when_the_stream_is_lost() -> None:
    joined = Joined()
    first, first_sink = joined.open()
    second, second_sink = joined.open()
    first_sink.conn_reset = lambda _reason, _detail: second.reset()  # type: ignore[method-assign]
    joined.node.lost("the cable")
    assert first.closed
    assert second.closed
    assert second_sink.events == ["opened"]


def test_a_connection_nobody_serves_is_reset() -> None:
    joined = Joined()
    joined.laptop.on_open = None
    _, sink = joined.open()
    assert sink.events[-1].startswith("reset internal")


def test_connections_are_limited_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mux_module, "MAX_CONNECTIONS", 5)
    joined = Joined()
    opened = [joined.open()[0] for _ in range(5)]
    sixth, _ = joined.open()
    assert sixth.closed
    monkeypatch.setattr(mux_module, "MAX_CONNECTIONS", 7)
    sinks = [joined.open()[1] for _ in range(2)]
    monkeypatch.setattr(mux_module, "MAX_CONNECTIONS", 5)
    monkeypatch.setattr(Mux, "_full", property(lambda self: self is joined.laptop))
    _, refused = joined.open()
    assert refused.events == ["reset limit too many connections"]
    assert all(sink.events == ["opened"] for sink in sinks)
    monkeypatch.undo()
    opened[0].reset()
    joined.carry()
    _, sink = joined.open()
    assert sink.events == ["opened"]


def test_what_a_sink_still_holds_counts_after_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mux_module, "MAX_CONNECTIONS", 1)
    joined = Joined()
    conn, sink = joined.open(lazy=True)
    peer = joined.served[-1]
    peer.write(bytes(100_000))
    peer.write_eof()
    conn.write_eof()
    joined.carry()
    assert conn.closed
    assert sink.unconsumed == 100_000
    assert joined.open()[0].closed  # its memory is still in use
    sink.consume()
    assert joined.node.budget.free == BUDGET
    assert not joined.open()[0].closed


def test_datagrams_keep_their_borders_and_are_dropped_when_they_queue() -> None:
    joined = Joined()
    conn, _ = joined.open()
    got: list[bytes] = []
    joined.served[-1].on_datagram = got.append
    sent = [b"", b"x", bytes(MAX_DATAGRAM)]
    assert all(conn.write_datagram(payload) for payload in sent)
    joined.carry()
    assert got == sent
    assert not conn.write_datagram(bytes(MAX_DATAGRAM + 1))
    assert sum(conn.write_datagram(b"x") for _ in range(1000)) == DATAGRAMS_QUEUED
    joined.carry()
    assert sum(conn.write_datagram(bytes(60_000)) for _ in range(50)) == DATAGRAM_BYTES_QUEUED // 60_000
    joined.carry()
    assert conn.write_datagram(b"room again")


def test_ping_measures_the_round_trip_and_tells_the_dead_from_the_quiet() -> None:
    joined = Joined()
    assert joined.node.tick() == ""
    batch = joined.node.outbox.take(BATCH)
    joined.clock.now += 0.03
    joined.laptop.receive(batch)
    joined.carry_to_node()
    assert joined.node.rtt == pytest.approx(0.03)
    died = None
    for _ in range(20):
        joined.clock.now += 0.5
        if reason := joined.node.tick():
            died = joined.clock.now
            break
    assert died is not None
    assert "silent" in reason
    assert DEAD_SECONDS < died - 1000.03 <= DEAD_SECONDS + 1


def test_any_batch_keeps_the_peer_alive() -> None:
    joined = Joined()
    conn, _ = joined.open()
    peer = joined.served[-1]
    for _ in range(40):
        joined.clock.now += 0.5
        peer.write(b"x")
        joined.carry_to_node()
        assert joined.node.tick() == ""
    assert not conn.closed


def test_pings_go_out_every_two_seconds_even_if_nothing_is_taken() -> None:
    joined = Joined()
    joined.node.tick()
    joined.node.outbox.take(BATCH)
    joined.laptop.outbox.take(BATCH)
    sizes = []
    for _ in range(int(PING_SECONDS / 0.5)):
        joined.clock.now += 0.5
        joined.laptop.outbox.pong(1)
        joined.carry_to_node()
        joined.node.tick()
        sizes.append(len(joined.node.outbox.take(BATCH)))
    assert sizes[:-1] == [0] * (len(sizes) - 1)
    assert sizes[-1] > 0


def test_after_our_own_standstill_the_peer_gets_another_chance_but_not_a_long_one() -> None:
    joined = Joined()
    joined.node.tick()
    joined.clock.now += 60.0  # stopped, or asleep
    assert joined.node.tick() == ""
    survived = joined.clock.now
    while not joined.node.tick():
        joined.clock.now += 0.5
    assert 1.0 <= joined.clock.now - survived <= 3.0


def test_output_is_announced_once_until_it_is_taken() -> None:
    joined = Joined()
    conn, _ = joined.open()
    before = joined.woken["node"]
    for _ in range(10):
        conn.write(b"x")
    assert joined.woken["node"] == before + 1
    joined.carry()
    conn.write(b"x")
    assert joined.woken["node"] == before + 2


def test_the_oldest_byte_ages_until_it_is_taken() -> None:
    joined = Joined()
    conn, _ = joined.open()
    conn.write(b"x")
    joined.clock.now += 2.0
    assert joined.node.outbox.oldest(joined.clock.now) == pytest.approx(2.0)
    joined.carry()
    assert joined.node.outbox.oldest(joined.clock.now) == 0.0
