"""A call as a stream of batches, in asyncio: what `tproxy.tunnel.endpoint` reads from and writes to."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import cast

from tproxy.http.h2 import frames
from tproxy.http.h2.frames import FaultError
from tproxy.rpc.calls import ClientCall, ServerCall
from tproxy.rpc.http2 import Call
from tproxy.rpc.messages import TooLongError
from tproxy.rpc.status import ABORTED, CANCELLED, UNAVAILABLE
from tproxy.tunnel.endpoint import StreamLostError

WRITE_BUFFER = 256 * 1024
"""Bytes that the kernel has not taken before a write waits."""

MAX_OWED = 1024 * 1024
"""A peer that makes us say so much and reads none of it is cut off."""

LINGER_SECONDS = 0.5
"""How long the peer may take to read our last word; then the connection is cut."""


class BatchTooLongError(StreamLostError):
    """The peer has sent a batch that we don't take: nothing that follows it can be read."""


class CallStream(asyncio.Protocol):
    """Joins a call with its connection. One read and one write at a time. `closed` is done when both are gone."""

    broken = "the connection broke"
    """What is said of a connection that ends without a word."""

    def __init__(self, call: Call) -> None:
        self._loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self._call = call
        self._transport: asyncio.Transport | None = None
        self._batches: deque[bytes] = deque()
        self._reader: asyncio.Future[bytes | None] | None = None
        self._receive: Callable[[bytes], None] | None = None  # who gets batches past the reader
        self._room: asyncio.Future[None] | None = None  # of whoever waits to write
        self._writable = True
        self._reading = True
        self._deaf = False  # what comes is dropped
        self._closing = False
        self._ended = False
        self._error: Exception | None = None  # what it ended with; None is in order
        call.incoming.on_message = self._message
        call.on_end = self._end

    # What the tunnel calls

    async def read(self) -> bytes | None:
        """The peer's next batch, or None when it sends no more. Raises `StreamLostError`."""
        if self._batches:
            batch = self._batches.popleft()
            if not self._batches and not self._reading:
                self._reading = True
                if self._transport is not None and not self._transport.is_closing():
                    self._transport.resume_reading()
            return batch
        if self._ended:
            if self._error is not None:
                raise self._error
            return None
        self._reader = self._loop.create_future()
        return await self._reader

    async def each(self, receive: Callable[[bytes], None]) -> None:
        """Give `receive` each batch of the peer's, as soon as it is there, until it sends no more.

        Raises `StreamLostError`, and what `receive` raises.
        """
        while self._batches:
            receive(await self.read() or b"")
        self._receive = receive
        await self.read()

    async def write(self, batch: bytes) -> None:
        """Send a batch; returns when there is room for another one. Raises `StreamLostError`."""
        if self._ended and self._error is not None:
            raise self._error
        self._call.send(batch)
        self._flush()
        while not self._writable or self._call.blocked:
            self._room = self._loop.create_future()
            await self._room
            if self._ended and self._error is not None:
                raise self._error

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without inheriting from it
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER)
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Bytes of the peer's."""
        if self._deaf:
            return
        try:
            self._call.receive(data)
        except FaultError as error:
            self._call.output.append(frames.goaway(0, error.code))
            self._lose(StreamLostError(self.broken))
            self._hang_up()
            return
        except TooLongError:
            self._deaf = True
            self._lose(BatchTooLongError("the peer sent a batch that is too long"))
        self._flush()
        if self._room is not None and self._writable and not self._call.blocked:
            self._wake()
        transport = self._transport
        if self._batches and self._reading and transport is not None and not transport.is_closing():
            self._reading = False
            transport.pause_reading()
        if transport is not None and transport.get_write_buffer_size() > MAX_OWED + WRITE_BUFFER and self._owes():
            transport.abort()

    def eof_received(self) -> None:
        """There is no half of a connection: it closes."""

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._transport = None
        self._lose(StreamLostError(self.broken))
        if not self.closed.done():
            self.closed.set_result(None)

    def pause_writing(self) -> None:
        """The peer reads more slowly than we write."""
        self._writable = False

    def resume_writing(self) -> None:
        """The kernel has taken most of it."""
        self._writable = True
        if not self._call.blocked:
            self._wake()

    # What the call says

    def _message(self, message: bytes) -> None:
        if self._receive is not None:
            if not self._ended:
                try:
                    self._receive(message)
                except Exception as error:
                    self._lose(error)
        elif self._reader is not None and not self._reader.done():
            self._reader.set_result(message)
        else:
            self._batches.append(message)

    def _end(self, status: int | None, details: str) -> None:
        """The peer has said its last."""
        self._lose(None if status is None else self._ended_with(status, details))

    def _ended_with(self, status: int, details: str) -> Exception:
        """What reading raises after that."""
        raise NotImplementedError

    def _lose(self, error: Exception | None) -> None:
        """Whoever reads hears of it after what has arrived; whoever writes at once if it is an error."""
        if self._ended:
            return
        self._ended, self._error = True, error
        if self._reader is not None and not self._reader.done():
            if error is None:
                self._reader.set_result(None)
            else:
                self._reader.set_exception(error)
        if error is not None:
            self._wake()

    def _wake(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _flush(self) -> None:
        call, transport = self._call, self._transport
        if call.output and transport is not None:
            output, call.output = call.output, []
            if not transport.is_closing():
                if len(output) == 1:
                    transport.write(output[0])
                else:
                    transport.writelines(output)

    def _owes(self) -> bool:
        """Whether what is waiting to be sent is more than batches of ours: those wait for room one by one."""
        return self._room is None or self._room.done()

    def _hang_up(self) -> None:
        """Close after the last word. What the peer still sends is read and dropped: with bytes unread the kernel would
        reset the connection, and the last word would be lost."""
        if self._closing:
            return
        self._flush()
        self._closing = self._deaf = True
        if self._transport is not None:
            if not self._reading and not self._transport.is_closing():
                self._transport.resume_reading()
            self._loop.call_later(LINGER_SECONDS, self.cut)

    def cut(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()


class ClientStream(CallStream):
    """The laptop's. `refused` makes the error of a status."""

    broken = "the connection to the node broke"

    def __init__(self, call: ClientCall, refused: Callable[[int, str], StreamLostError]) -> None:
        super().__init__(call)
        self._refused = refused

    def abort(self, reason: str) -> None:
        """End the stream now: the node hears that we have."""
        self._call.reset(frames.CANCEL)
        self._lose(StreamLostError(reason or "closed"))
        self._flush()
        self._closing = self._deaf = True
        if self._transport is not None:
            self._transport.close()
            self._loop.call_later(LINGER_SECONDS, self.cut)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose(self._refused(UNAVAILABLE, self.broken))
        super().connection_lost(exc)

    def _ended_with(self, status: int, details: str) -> Exception:
        return self._refused(status, details)


class ServerStream(CallStream):
    """The node's. `arrived` is called when the connection stands."""

    broken = "the connection to the laptop broke"

    def __init__(self, arrived: Callable[["ServerStream"], None]) -> None:
        self.call = ServerCall()
        super().__init__(self.call)
        self.peer = ""
        """The client's address and port."""
        self._arrived = arrived

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        self.peer = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else ""
        self._arrived(self)
        super().connection_made(transport)

    def end(self, status: int, details: str) -> None:
        """Say how the call ended, and hang up. Idempotent."""
        self.call.end(status, details)
        self._lose(StreamLostError(details))
        self._call.output.append(frames.goaway(1, frames.NO_ERROR))
        self._hang_up()

    def abort(self, reason: str) -> None:
        """End the stream; the laptop hears the reason."""
        self.end(ABORTED, reason)

    def _ended_with(self, status: int, details: str) -> Exception:
        if status != CANCELLED:  # what it asked for does not exist
            self._loop.call_soon(self._hang_up)
        return StreamLostError("the laptop closed the tunnel")
