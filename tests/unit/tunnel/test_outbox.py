"""Who goes first: small before large, in turns, and nobody for ever."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.tunnel.joined import BATCH, Joined, recorder
from tproxy.rpc.v1 import tunnel_pb2 as pb
from tproxy.tunnel import wire
from tproxy.tunnel.conn import Conn
from tproxy.tunnel.outbox import HIGH_MARK, QUANTUM


def bulk(joined: Joined, count: int) -> list[Conn]:
    """Connections with far more to send than fits into a batch, and a peer that wants it all."""
    conns = []
    for _ in range(count):
        conn, _ = joined.open()
        joined.laptop.outbox.control(wire.credit_frame(conn.id, 64 * 1024 * 1024))
        joined.carry()
        conns.append(conn)
    for conn in conns:
        conn.write(bytes(2_000_000))
    return conns


def shares(batch: bytes) -> dict[int, int]:
    """Bytes of data by connection."""
    found: dict[int, int] = {}
    for number, frame in wire.frames(batch):
        if not isinstance(frame, pb.Frame):
            found[number] = found.get(number, 0) + len(frame)
    return found


def test_a_small_message_is_in_the_next_batch_whatever_else_waits() -> None:
    joined = Joined()
    bulk(joined, 40)
    joined.node.outbox.take(BATCH)
    small, _ = joined.open_quietly()
    small.write(b"GET / HTTP/1.1\r\n\r\n")
    assert shares(joined.node.outbox.take(BATCH))[small.id] == 18


def test_bulk_connections_share_equally() -> None:
    joined = Joined()
    conns = bulk(joined, 6)
    total: dict[int, int] = {}
    for _ in range(12):
        share = shares(joined.node.outbox.take(BATCH))
        assert len(share) == 6
        for number, size in share.items():
            total[number] = total.get(number, 0) + size
    assert max(total.values()) - min(total[conn.id] for conn in conns) <= 2 * QUANTUM


def test_many_small_messages_leave_half_of_every_batch_to_the_bulk() -> None:
    joined = Joined()
    [large] = bulk(joined, 1)
    joined.node.outbox.take(BATCH)
    smalls = [joined.open_quietly()[0] for _ in range(200)]
    for conn in smalls:
        conn.write(bytes(10_000))
    share = shares(joined.node.outbox.take(BATCH))
    assert share[large.id] >= BATCH // 2 - QUANTUM
    assert sum(share.values()) - share[large.id] >= BATCH // 2 - 20_000  # their OPENs take room too


def test_alone_a_connection_fills_the_batch() -> None:
    joined = Joined()
    [large] = bulk(joined, 1)
    batch = joined.node.outbox.take(BATCH)
    assert shares(batch) == {large.id: BATCH}
    assert len(batch) < BATCH + 100


def test_a_batch_is_bounded() -> None:
    joined = Joined()
    bulk(joined, 100)
    while joined.node.outbox.waiting:
        assert len(joined.node.outbox.take(BATCH)) <= BATCH + QUANTUM + 10_000


def test_the_mark_falls_while_the_outbox_fills_and_every_sink_is_paused_in_time() -> None:
    """Nobody takes anything: one hundred sources that heed the pause fill the outbox only to its budget."""
    joined = Joined()
    opened = [joined.open() for _ in range(100)]
    marks = [joined.node.outbox.high_mark]
    while not all(sink.paused for _, sink in opened):
        for conn, sink in opened:
            if not sink.paused:
                conn.write(bytes(60_000))
        marks.append(joined.node.outbox.high_mark)
    assert marks[0] == HIGH_MARK
    assert marks == sorted(marks, reverse=True)
    assert joined.node.outbox.queued < 40 * 1024 * 1024
    joined.carry()
    for conn, sink in opened:
        recorder(joined.peer_of(conn)).consume()
        joined.carry()
        assert not sink.paused
    assert joined.node.outbox.queued == 0


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 200_000)), max_size=60), st.integers(1000, 600_000))
def test_pieces_are_cut_and_joined_without_loss(writes: list[tuple[int, int]], limit: int) -> None:
    joined = Joined()
    conns = [joined.open()[0] for _ in range(5)]
    sent = {conn.id: b"" for conn in conns}
    for step, (index, size) in enumerate(writes):
        if not recorder(conns[index]).paused:
            payload = step.to_bytes(4, "big") * (size // 4 + 1)
            conns[index].write(payload)
            sent[conns[index].id] += payload
        if batch := joined.node.outbox.take(limit):
            joined.laptop.receive(batch)
    joined.carry()
    for conn in joined.served:
        assert bytes(recorder(conn).data) == sent[conn.id]
