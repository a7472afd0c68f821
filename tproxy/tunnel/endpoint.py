"""One side of a live tunnel: a multiplexer joined with a stream of batches, in asyncio. Knows no gRPC."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from tproxy.model.flow import OpenRequest, ResetReason
from tproxy.tasks import Tasks
from tproxy.tunnel.mux import Conn, ConnSink, Mux, ProtocolError

__all__ = ["Conn", "ConnSink", "Endpoint", "Stats", "Stream"]

log = logging.getLogger(__name__)

TICK_SECONDS = 0.5


class Stream(Protocol):
    """What carries batches. One read and one write at a time."""

    async def read(self) -> bytes | None:
        """The peer's next batch, or None when it sends no more. Raises `StreamLostError`."""

    async def write(self, batch: bytes) -> None:
        """Send a batch; returns when the transport can take the next one. Raises `StreamLostError`."""

    def abort(self, reason: str) -> None:
        """End the stream now, in both directions; reads and writes under way end."""


class StreamLostError(Exception):
    """The stream ended other than by the peer's orderly close."""


@dataclass(frozen=True, slots=True)
class Stats:
    """What a tunnel has carried and holds. Sizes in bytes, times in seconds."""

    bytes_in: int
    bytes_out: int
    connections: int
    rtt: float
    oldest: float  # age of the oldest byte that waits to be sent although the peer gave credit for it


class Endpoint:
    """One side of a live tunnel.

    Set `on_open` before control returns to the loop: from then on the peer may open connections.
    """

    def __init__(self, stream: Stream, laptop: bool, on_open: Callable[[Conn], None] | None = None) -> None:
        self.alive = True
        self._stream = stream
        self._loop = asyncio.get_running_loop()
        self._output = asyncio.Event()
        self._mux = Mux(laptop, self._loop.time, self._output.set, on_open)
        self._closed: asyncio.Future[str] = self._loop.create_future()
        self._write_began = 0.0
        self._tasks = Tasks("tunnel")
        self._tasks.start(self._read(), "read")
        self._tasks.start(self._write(), "write")
        self._tasks.start(self._heartbeat(), "heartbeat")

    @property
    def on_open(self) -> Callable[[Conn], None] | None:
        """Called with each connection that the peer opens. It must set `conn.sink` before it returns, or reset the
        connection, and calls `accept()` then or later."""
        return self._mux.on_open

    @on_open.setter
    def on_open(self, callback: Callable[[Conn], None] | None) -> None:
        self._mux.on_open = callback

    @property
    def stats(self) -> Stats:
        """A snapshot."""
        mux = self._mux
        writing = self._loop.time() - self._write_began if self._write_began else 0.0
        return Stats(mux.bytes_in, mux.bytes_out, len(mux.conns), mux.rtt, max(mux.oldest, writing))

    def open(self, request: OpenRequest, sink: ConnSink) -> Conn:
        """Open a connection towards the peer. On a dead endpoint the sink hears TUNNEL_LOST soon."""
        conn = self._mux.open(request, sink)
        if not self.alive:
            conn.closed = True
            self._loop.call_soon(sink.conn_reset, ResetReason.TUNNEL_LOST, "the tunnel is closed")
        return conn

    async def wait_closed(self) -> str:
        """Wait for the end and return its reason."""
        return await asyncio.shield(self._closed)

    def close(self, reason: str = "closed") -> None:
        """End the tunnel at once; every connection's sink hears TUNNEL_LOST. Idempotent."""
        if not self.alive:
            return
        self.alive = False
        self._stream.abort(reason)
        self._mux.lost(reason)
        self._closed.set_result(reason)
        self._tasks.start(self._tasks.close(), "close")

    async def _read(self) -> None:
        try:
            while (batch := await self._stream.read()) is not None:
                self._mux.receive(batch)
            self.close("the peer closed the tunnel")
        except StreamLostError as error:
            self.close(str(error))
        except ProtocolError as error:
            log.warning("tunnel ended by protocol error", extra={"reason": str(error)})
            self.close(f"protocol error: {error}")

    async def _write(self) -> None:
        try:
            while True:
                await self._output.wait()
                self._output.clear()
                while batch := self._mux.take():
                    self._write_began = self._loop.time()
                    await self._stream.write(batch)
                self._write_began = 0.0
        except StreamLostError as error:
            self.close(str(error))

    async def _heartbeat(self) -> None:
        while True:
            if reason := self._mux.tick():
                return self.close(reason)
            await asyncio.sleep(TICK_SECONDS)
