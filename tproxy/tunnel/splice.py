"""Joins two TCP connections, a client's and one to the app, that need no tunnel.

Half-close, reset and backpressure pass through in both directions, so that the app and its client behave as if they
were connected to each other. What is in flight is bounded by the write buffers of the two transports.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import cast

from tproxy.tunnel.bridge import abort_with_reset


class Splice:
    """A pair of connections; each side is a protocol for its transport. `over` is done when both are gone."""

    def __init__(self) -> None:
        self.client = Side(self)
        self.app = Side(self)
        self.client.peer, self.app.peer = self.app, self.client
        self.on_client_lost: Callable[[], None] | None = None
        """Called once when the client is gone, or somebody else's, but can still be asked how it was."""

        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def abort(self) -> None:
        """Reset both connections."""
        self.client.abort()
        self.app.abort()

    def finish(self) -> None:
        """End both in order, after what has been written."""
        self.client.finish()
        self.app.finish()

    def give_client(self) -> asyncio.Transport | None:
        """The client is somebody else's from now on; the app's side ends in order."""
        self.client_lost()
        transport, self.client._transport = self.client._transport, None
        self.client.gone = True
        self.app.finish()
        self.lost()
        return transport

    def client_lost(self) -> None:
        """Tell of it, once."""
        told, self.on_client_lost = self.on_client_lost, None
        if told is not None:
            told()

    def lost(self) -> None:
        """A side is gone: the splice is over with the client's side, or with the app's if that was ever there."""
        if self.client.gone and (self.app.gone or not self.app.connected) and not self.over.done():
            self.over.set_result(None)


class Side(asyncio.Protocol):
    """One of the two connections."""

    peer: "Side"

    def __init__(self, splice: Splice) -> None:
        self.connected = False
        self.gone = False
        self._splice = splice
        self._transport: asyncio.Transport | None = None
        self._early: list[bytes] = []
        self._finished = False  # the peer has no more bytes for this connection
        self.listener: Callable[[bytes], bool] | None = None
        """Hears what this side sends before it is passed on; if it says so, it is not passed on."""

        self.filter: Callable[[bytes], bytes] | None = None
        """What this side sends goes through it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected: what the peer has sent meanwhile goes out now."""
        self.connected = True
        self._transport = tcp = cast(asyncio.Transport, transport)
        for data in self._early:
            tcp.write(data)
        self._early.clear()
        if self._finished:
            tcp.write_eof()
        if self.peer.gone and not (self._finished and self.peer._finished):
            self.abort()  # it went before this connection stood
        self.peer._resume_reading()

    def data_received(self, data: bytes) -> None:
        """Bytes for the peer."""
        if self.listener is not None and self.listener(data):
            return
        if self.filter is not None and not (data := self.filter(data)):
            return
        peer = self.peer
        if peer._transport is not None:
            peer._transport.write(data)
        else:
            # Not connected yet: hold this one read, and leave the rest to the kernel's window.
            peer._early.append(data)
            self._pause_reading()

    def eof_received(self) -> bool:
        """This connection sends no more; the opposite direction stays open."""
        peer = self.peer
        peer._finished = True
        if peer._transport is not None and not peer._transport.is_closing():
            # The other end may have gone this very moment: its connection_lost will say so.
            with contextlib.suppress(OSError):
                peer._transport.write_eof()
        if self._finished:
            self._close()
            peer._close()
        return True

    def pause_writing(self) -> None:
        """The reader of this connection is slow: take no more from the peer."""
        self.peer._pause_reading()

    def resume_writing(self) -> None:
        """Room again."""
        self.peer._resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Over. Unless both directions had ended the peer sees a reset."""
        self.gone = True
        if self is self._splice.client:
            self._splice.client_lost()
        if not (self._finished and self.peer._finished):
            self.peer.abort()
        self._splice.lost()

    def finish(self) -> None:
        """End this connection in order, for both directions."""
        self._finished = True
        self._close()

    def abort(self) -> None:
        """Reset this connection if it is there."""
        if self._transport is not None:
            abort_with_reset(self._transport)

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _pause_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
