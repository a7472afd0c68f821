"""Two multiplexers and a channel that delivers when it likes: whatever the order, bytes arrive whole and in order,
credit is kept, memory is bounded, and everything ends."""

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from tests.unit.tunnel.joined import BATCH, REQUEST, Clock, Recorder
from tproxy.tunnel.conn import Conn
from tproxy.tunnel.credit import BUDGET, MAX_WINDOW, MIN_WINDOW
from tproxy.tunnel.mux import Mux
from tproxy.tunnel.outbox import HIGH_MARK


class End:
    """One end of a connection, what was written to it, and what its other end must therefore see."""

    def __init__(self, conn: Conn, sink: Recorder) -> None:
        self.conn = conn
        self.sink = sink
        self.sent = bytearray()
        self.finished = False
        self.reset = False
        self.other: End | None = None
        sink.conn = conn


class Tunnel(RuleBasedStateMachine):
    ends = Bundle("ends")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.cut = False
        self.made: dict[str, dict[int, End]] = {"laptop": {}, "node": {}}
        self.muxes = {
            "laptop": Mux(True, self.clock, on_open=lambda conn: self._serve("laptop", conn)),
            "node": Mux(False, self.clock, on_open=lambda conn: self._serve("node", conn)),
        }
        self.flight: dict[str, deque[bytes]] = {"laptop": deque(), "node": deque()}  # by destination
        self.fill = 0

    def _serve(self, side: str, conn: Conn) -> None:
        end = End(conn, Recorder(lazy=True))
        conn.sink = end.sink
        other = self.made["node" if side == "laptop" else "laptop"][conn.id]
        end.other, other.other = other, end
        self.made[side][conn.id] = end

    # What the ends do

    @rule(target=ends, side=st.sampled_from(["laptop", "node"]))
    def open(self, side: str) -> End:
        sink = Recorder(lazy=True)
        end = End(self.muxes[side].open(REQUEST, sink), sink)
        self.made[side][end.conn.id] = end
        if self.cut:
            self.muxes[side].abandon(end.conn)
        return end

    @rule(end=ends, here=st.booleans(), size=st.integers(1, 300_000))
    def write(self, end: End, here: bool, size: int) -> None:
        chosen = end if here else end.other
        if chosen is None or chosen.finished or chosen.reset or chosen.conn.closed or chosen.sink.paused:
            return
        self.fill += 1
        payload = self.fill.to_bytes(4, "big") * (size // 4 + 1)
        chosen.sent += payload
        chosen.conn.write(payload)

    @rule(end=ends)
    def accept(self, end: End) -> None:
        if end.other is not None:
            end.other.conn.accept()

    @rule(end=ends, here=st.booleans())
    def finish(self, end: End, here: bool) -> None:
        chosen = end if here else end.other
        if chosen is not None and not chosen.reset:
            chosen.finished = True
            chosen.conn.write_eof()

    @rule(end=consumes(ends), here=st.booleans())
    def reset(self, end: End, here: bool) -> None:
        chosen = end if here else end.other
        if chosen is not None:
            chosen.reset = True
            chosen.conn.reset()
            chosen.sink.unconsumed = 0

    @rule(end=ends, here=st.booleans(), part=st.floats(0.01, 1.0))
    def consume(self, end: End, here: bool, part: float) -> None:
        chosen = end if here else end.other
        if chosen is not None and chosen.sink.unconsumed:
            size = max(1, int(chosen.sink.unconsumed * part))
            chosen.sink.unconsumed -= size
            chosen.conn.consumed(size)

    # What the channel does

    @rule(source=st.sampled_from(["laptop", "node"]), limit=st.sampled_from([1, 1000, 50_000, BATCH]))
    def take(self, source: str, limit: int) -> None:
        if not self.cut and (batch := self.muxes[source].outbox.take(limit)):
            self.flight["node" if source == "laptop" else "laptop"].append(batch)

    @rule(destination=st.sampled_from(["laptop", "node"]), count=st.integers(1, 5))
    def deliver(self, destination: str, count: int) -> None:
        for _ in range(min(count, len(self.flight[destination]))):
            self.muxes[destination].receive(self.flight[destination].popleft())

    @rule(seconds=st.floats(0.0001, 0.4))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds
        for mux in self.muxes.values():
            mux._heard = self.clock.now  # the channel is slow here, never silent
            assert mux.tick() == ""

    @precondition(lambda self: len(self.made["laptop"]) > 3)
    @rule(really=st.integers(0, 5))
    def lose_the_stream(self, really: int) -> None:
        if really == 0 and not self.cut:
            self.cut = True
            for side, mux in self.muxes.items():
                self.flight[side].clear()
                mux.lost("cut")
                assert not mux.conns

    # What must hold at any time

    @invariant()
    def what_arrives_is_what_was_sent(self) -> None:
        for side in self.made.values():
            for end in side.values():
                if end.other is not None:
                    got = end.sink.data
                    assert got == end.other.sent[: len(got)]
                    if "eof" in end.sink.events:
                        assert end.other.finished
                        assert len(got) == len(end.other.sent)

    @invariant()
    def memory_is_bounded_and_counted(self) -> None:
        for side, mux in self.muxes.items():
            ends = self.made[side].values()
            assert mux.outbox.queued == sum(end.conn.queued for end in ends)
            windows = [end.conn._window for end in ends]
            assert mux.budget.free + sum(window.size - MIN_WINDOW for window in windows) == BUDGET
            for end in ends:
                assert end.conn.queued <= HIGH_MARK + 300_004
                assert end.sink.unconsumed <= MAX_WINDOW
                assert end.conn.closed or end.conn._window.with_sink == end.sink.unconsumed
                assert end.conn.closed == (end.conn.id not in mux.conns)

    def teardown(self) -> None:
        """Let everything through: nothing may be left waiting for anything."""
        if self.cut:
            return
        for _ in range(10_000):
            for ends in self.made.values():
                for end in ends.values():
                    end.finished = True
                    end.conn.write_eof()
                    end.conn.accept()
                    self.consume(end, True, 1.0)
            if not any(self.flight.values()) and not any(mux.outbox.waiting for mux in self.muxes.values()):
                break
            for side in self.muxes:
                self.take(side, BATCH)
                self.deliver(side, 5)
        for side, mux in self.muxes.items():
            assert not mux.conns
            assert mux.budget.free == BUDGET
            assert mux.outbox.queued == 0
            for end in self.made[side].values():
                assert end.conn.closed
                other = end.other
                if other is not None and not end.reset and not other.reset:
                    assert end.sink.data == other.sent
                    assert "eof" in end.sink.events
                elif other is not None and other.reset and not end.reset:
                    assert "eof" in end.sink.events or end.sink.events[-1].startswith("reset")
        self.what_arrives_is_what_was_sent()


TestTunnel = Tunnel.TestCase
TestTunnel.settings = settings(max_examples=40, stateful_step_count=50, deadline=None)
