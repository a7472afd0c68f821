"""The asyncio side of a tunnel: batching, flow control, death, and errors of our own."""

import asyncio
import logging

import pytest

from tests.unit.tunnel.conftest import Run
from tests.unit.tunnel.joined import BATCH, Recorder
from tests.unit.tunnel.live import REQUEST, Pipe, until
from tproxy.tunnel import endpoint as endpoint_module
from tproxy.tunnel import mux, wire
from tproxy.tunnel.conn import Buffer, Conn
from tproxy.tunnel.endpoint import Endpoint


class Both:
    """Two endpoints on a pipe; the laptop accepts everything into recorders."""

    def __init__(self) -> None:
        self.near, self.far = Pipe.pair()
        self.served: list[Recorder] = []
        self.node = Endpoint(self.near, laptop=False)
        self.laptop = Endpoint(self.far, laptop=True, on_open=self._serve)

    def _serve(self, conn: Conn) -> None:
        sink = Recorder()
        sink.conn = conn
        conn.sink = sink
        self.served.append(sink)
        conn.accept()

    def open(self) -> tuple[Conn, Recorder]:
        """A connection from the node."""
        sink = Recorder()
        sink.conn = conn = self.node.open(REQUEST, sink)
        return conn, sink


def test_what_is_queued_while_a_batch_is_written_leaves_as_one(run: Run) -> None:
    async def main() -> None:
        both = Both()
        conns = [both.open()[0] for _ in range(50)]
        await until(lambda: len(both.served) == 50 and not both.node.stats.queued)
        both.near.held.clear()
        conns[0].write(b"first")
        await until(lambda: both.node.stats.queued == 0)
        before = len(both.near.sent)
        for conn in conns:
            for _ in range(10):
                conn.write(b"more")
                await asyncio.sleep(0)
        assert both.node.stats.queued == 50 * 40
        both.near.held.set()
        await until(lambda: all(len(sink.data) >= 40 for sink in both.served))
        assert len(both.near.sent) - before <= 3
        both.node.close()

    run(main())


def test_nothing_is_taken_while_the_transport_is_full(run: Run) -> None:
    async def main() -> None:
        both = Both()
        conn, sink = both.open()
        await until(lambda: bool(both.served))
        both.near.held.clear()
        written = 0
        while not sink.paused:
            conn.write(bytes(10_000))
            written += 10_000
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        assert both.node.stats.queued >= written - BATCH
        await until(lambda: both.node.stats.oldest > 0.05)
        both.near.held.set()
        await until(lambda: len(both.served[0].data) == written)
        await until(lambda: both.node.stats.oldest == 0.0)
        assert not sink.paused
        both.node.close()

    run(main())


def test_statistics(run: Run) -> None:
    async def main() -> None:
        both = Both()
        conn, _ = both.open()
        conn.write(b"x" * 1000)
        await until(lambda: both.laptop.stats.bytes_in > 1000)
        await until(lambda: both.node.stats.bytes_out == both.laptop.stats.bytes_in)
        assert both.node.stats.connections == both.laptop.stats.connections == 1
        await until(lambda: both.node.stats.rtt > 0)
        conn.reset()
        await until(lambda: both.laptop.stats.connections == 0)
        both.node.close()

    run(main())


def test_a_close_ends_both_sides_and_every_connection(run: Run) -> None:
    async def main() -> None:
        both = Both()
        _, sink = both.open()
        # Until nobody has anything left to write: a write that fails would say so first.
        await until(lambda: both.node.stats.rtt > 0 and both.laptop.stats.rtt > 0)
        both.laptop.close("the laptop leaves")
        both.laptop.close("again")
        assert await both.laptop.wait_closed() == "the laptop leaves"
        assert both.served[0].events == ["reset tunnel-lost the laptop leaves"]
        assert await asyncio.wait_for(both.node.wait_closed(), 5) == "the peer closed the tunnel"
        assert sink.events == ["opened", "reset tunnel-lost the peer closed the tunnel"]
        assert not both.node.alive
        late, late_sink = both.open()
        await until(lambda: bool(late_sink.events))
        assert late.closed
        assert late_sink.events == ["reset tunnel-lost the tunnel is closed"]
        assert both.node.stats.connections == 0

    run(main())


def test_a_silent_peer_is_dead_even_while_a_write_hangs(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mux, "PING_SECONDS", 0.1)
    monkeypatch.setattr(mux, "DEAD_SECONDS", 0.3)
    monkeypatch.setattr(endpoint_module, "TICK_SECONDS", 0.02)

    async def main() -> None:
        both = Both()
        conn, sink = both.open()
        await until(lambda: bool(both.served))
        both.near.held.clear()
        both.far.held.clear()
        conn.write(b"stuck")
        began = asyncio.get_running_loop().time()
        assert "silent" in await asyncio.wait_for(both.node.wait_closed(), 5)
        assert 0.2 < asyncio.get_running_loop().time() - began < 1.0
        assert sink.events[-1].startswith("reset tunnel-lost")
        both.laptop.close()

    run(main())


def test_idle_tunnels_live(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mux, "PING_SECONDS", 0.05)
    monkeypatch.setattr(mux, "DEAD_SECONDS", 0.2)
    monkeypatch.setattr(endpoint_module, "TICK_SECONDS", 0.01)

    async def main() -> None:
        both = Both()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(both.node.wait_closed(), 0.6)
        assert both.node.alive
        assert both.laptop.alive
        both.node.close()

    run(main())


def test_a_peer_that_breaks_the_protocol_is_cut_off_with_a_reason(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        both = Both()
        _, sink = both.open()
        await until(lambda: bool(both.served))
        await both.far.write(wire.fin_frame(77))
        reason = await asyncio.wait_for(both.node.wait_closed(), 5)
        assert reason == "protocol error: a frame for a connection that was never opened"
        assert sink.events[-1].startswith("reset tunnel-lost protocol error")
        both.laptop.close()

    run(main())
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_an_error_in_a_sink_ends_the_tunnel_and_is_logged(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    class Faulty(Recorder):
        def conn_data(self, data: Buffer) -> None:
            raise ZeroDivisionError

    async def main() -> None:
        both = Both()
        conn, _ = both.open()
        await until(lambda: bool(both.served))
        assert both.served[0].conn is not None
        both.served[0].conn.sink = Faulty()
        conn.write(b"x")
        assert await asyncio.wait_for(both.laptop.wait_closed(), 5) == "internal error"
        assert await asyncio.wait_for(both.node.wait_closed(), 5) == "the peer closed the tunnel"

    run(main())
    assert "error of our own" in caplog.text
    assert "ZeroDivisionError" in caplog.text
