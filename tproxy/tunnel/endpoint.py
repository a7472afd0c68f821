"""One side of a live tunnel: a multiplexer joined with a stream of batches, in asyncio. Knows no gRPC.

One write is under way at a time; what is queued meanwhile leaves as the next batch. Before a batch is taken the loop
goes round `SETTLE_ROUNDS` times, so that everything readable by now is in it: that made batches ten times larger and
tripled the requests per second at 64 connections. Where one connection alone has something to say, that leaves at
once. Large batches are cheap to carry (2.0 s of processor per gigabyte with 1 MiB, 2.6 with 256 KiB, 4.8 with 64 KiB),
but what comes next waits for them: on a path that takes long over one they become smaller.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from tproxy.model.flow import OpenRequest, ResetReason
from tproxy.tasks import Tasks
from tproxy.tunnel.conn import Conn, ConnSink
from tproxy.tunnel.mux import Mux, ProtocolError

__all__ = ["Conn", "ConnSink", "Endpoint", "Stats", "Stream", "StreamLostError"]

log = logging.getLogger(__name__)

SETTLE_ROUNDS = 2
SMALLEST_BATCH = 64 * 1024
LARGEST_BATCH = 1024 * 1024
QUICK_SECONDS = 0.005
SLOW_SECONDS = 0.02
TICK_SECONDS = 0.5


class StreamLostError(Exception):
    """The stream ended other than by the peer's orderly close. The text says why, for people."""


class Stream(Protocol):
    """What carries batches. One write at a time."""

    async def each(self, receive: Callable[[bytes], None]) -> None:
        """Give `receive` each batch of the peer's, as soon as it is there, until it sends no more.

        Raises `StreamLostError`, and what `receive` raises.
        """

    async def write(self, batch: bytes) -> None:
        """Send a batch; returns when the transport can take the next one. Raises `StreamLostError`."""

    def abort(self, reason: str) -> None:
        """End the stream now, in both directions, whatever is under way. Tells the peer `reason` if it can."""


@dataclass(frozen=True, slots=True)
class Stats:
    """What a tunnel has carried and holds. Sizes in bytes, times in seconds."""

    bytes_in: int
    bytes_out: int
    connections: int
    rtt: float
    oldest: float  # age of what has waited longest to be sent although the peer is ready for it
    queued: int  # bytes that wait to be sent
    quiet: float  # time since the peer was last heard


@dataclass(frozen=True, slots=True)
class Credits:
    """Bytes that the peer may send now, bytes that it is ready to receive, and connections that wait for it to be."""

    given: int
    held: int
    waiting: int


class Endpoint:
    """One side of a live tunnel.

    Set `on_open` before control returns to the loop: from then on the peer may open connections.
    """

    def __init__(
        self,
        stream: Stream,
        laptop: bool,
        on_open: Callable[[Conn], None] | None = None,
        peer_software: str = "",
    ) -> None:
        loop = asyncio.get_running_loop()
        self.alive = True
        self.peer_software = peer_software
        """The version that the other side says it is, for people."""
        self._stream = stream
        self._loop = loop
        self._output: asyncio.Future[None] = loop.create_future()
        self._mux = Mux(laptop, time.monotonic, self._wake_writer, on_open)
        self._closed: asyncio.Future[str] = loop.create_future()
        self._bytes_out = 0
        self._write_began: float | None = None
        tasks = Tasks("tunnel")
        self._tasks = [
            tasks.start(self._guard(self._read), "read"),
            tasks.start(self._guard(self._write), "write"),
            tasks.start(self._guard(self._heartbeat), "heartbeat"),
        ]

    @property
    def on_open(self) -> Callable[[Conn], None] | None:
        """Called with each connection that the peer opens. It sets `conn.sink` before it returns, or resets the
        connection; it calls `conn.accept()` then or later."""
        return self._mux.on_open

    @on_open.setter
    def on_open(self, callback: Callable[[Conn], None] | None) -> None:
        self._mux.on_open = callback

    @property
    def stats(self) -> Stats:
        """A snapshot."""
        mux, now = self._mux, time.monotonic()
        writing = 0.0 if self._write_began is None else now - self._write_began
        oldest = max(mux.outbox.oldest(now), writing)
        return Stats(mux.bytes_in, self._bytes_out, len(mux.conns), mux.rtt, oldest, mux.outbox.queued, mux.quiet)

    @property
    def credits(self) -> Credits:
        """Of all connections together; takes a look at each."""
        conns = self._mux.conns.values()
        waiting = sum(1 for conn in conns if conn.queued and not conn.credit)
        return Credits(sum(conn.given for conn in conns), sum(conn.credit for conn in conns), waiting)

    def open(self, request: OpenRequest, sink: ConnSink) -> Conn:
        """Open a connection towards the peer. If that is not possible, `sink` hears of the reset soon."""
        conn = self._mux.open(request, sink)
        if not self.alive:
            self._mux.abandon(conn)
            self._loop.call_soon(sink.conn_reset, ResetReason.TUNNEL_LOST, "the tunnel is closed")
        elif conn.closed:
            self._loop.call_soon(sink.conn_reset, ResetReason.LIMIT, "the tunnel has too many connections")
        return conn

    async def wait_closed(self) -> str:
        """Wait for the end and return its reason."""
        return await asyncio.shield(self._closed)

    def close(self, reason: str = "closed") -> None:
        """End the tunnel at once; every connection's sink hears TUNNEL_LOST. Idempotent."""
        if not self.alive:
            return
        self.alive = False
        self._closed.set_result(reason)
        self._stream.abort(reason)
        self._mux.lost(reason)
        current = asyncio.current_task()
        for task in self._tasks:
            if task is not current:
                task.cancel()

    async def _guard(self, part: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run one part; however it ends, the tunnel ends with it."""
        try:
            await part()
        except StreamLostError as error:
            self.close(str(error))
        except ProtocolError as error:
            log.warning("tunnel ended", extra={"reason": f"protocol error: {error}"})
            self.close(f"protocol error: {error}")
        except Exception:
            log.exception("tunnel ended by an error of our own")
            self.close("internal error")

    async def _read(self) -> None:
        await self._stream.each(self._mux.receive)
        self.close("the peer closed the tunnel")

    def _wake_writer(self) -> None:
        if not self._output.done():
            self._output.set_result(None)

    async def _write(self) -> None:
        write, outbox = self._stream.write, self._mux.outbox
        limit = LARGEST_BATCH // 4
        while True:
            if not outbox.waiting:
                self._output = self._loop.create_future()
                await self._output
            if not outbox.alone:
                for _ in range(SETTLE_ROUNDS):
                    await asyncio.sleep(0)
            if batch := outbox.take(limit):
                self._bytes_out += len(batch)
                self._write_began = began = time.monotonic()
                await write(batch)
                self._write_began = None
                took = time.monotonic() - began
                if took > SLOW_SECONDS:
                    limit = max(limit // 2, SMALLEST_BATCH)
                elif took < QUICK_SECONDS and len(batch) >= limit:
                    limit = min(limit * 2, LARGEST_BATCH)

    async def _heartbeat(self) -> None:
        while not (reason := self._mux.tick()):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_SECONDS):
                    await self.wait_closed()
        self.close(reason)
