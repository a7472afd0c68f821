"""The first moments between a client and a laptop that have both spoken HTTP/2 with us before they met."""

import asyncio

from tproxy.http.greeting import Greeting
from tproxy.model.flow import ResetReason
from tproxy.tunnel.bridge import Bridge
from tproxy.tunnel.conn import Buffer, Conn


class Greeted(asyncio.Protocol):
    """Stands in for `bridge`, as the protocol of its transport and the sink of its `conn`.

    Keeps from each the acknowledgement that was meant for us, and then gets out of the way.
    """

    def __init__(self, bridge: Bridge, transport: asyncio.Transport | None, conn: Conn, greeting: Greeting) -> None:
        self._bridge = bridge
        self._transport = transport
        self._conn = conn
        self._client, self._laptop = greeting.filters()
        conn.sink = self
        if transport is not None:
            transport.set_protocol(self)

    def _leave(self) -> None:
        if self._client.done and self._laptop.done:
            self._conn.sink = self._bridge
            if self._transport is not None:
                self._transport.set_protocol(self._bridge)

    # The client's side

    def data_received(self, data: bytes) -> None:
        """The client speaks."""
        if data := self._client.feed(data):
            self._bridge.data_received(data)
        self._leave()

    def eof_received(self) -> bool:
        """The client has finished."""
        return self._bridge.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._transport = None
        self._conn.sink = self._bridge
        self._bridge.connection_lost(exc)

    def pause_writing(self) -> None:
        """The client reads slowly."""
        self._bridge.pause_writing()

    def resume_writing(self) -> None:
        """And goes on."""
        self._bridge.resume_writing()

    # The laptop's side

    def conn_opened(self) -> None:
        """That says nothing yet."""

    def conn_data(self, data: Buffer) -> None:
        """The laptop speaks."""
        passed = self._laptop.feed(bytes(data))
        self._conn.consumed(len(data) - len(passed))
        if passed:
            self._bridge.conn_data(passed)
        self._leave()

    def conn_eof(self) -> None:
        """The laptop has finished."""
        self._bridge.conn_eof()

    def conn_reset(self, reason: ResetReason, detail: str) -> None:
        """The laptop's side is gone."""
        self._bridge.conn_reset(reason, detail)

    def conn_pause(self) -> None:
        """The tunnel is full."""
        self._bridge.conn_pause()

    def conn_resume(self) -> None:
        """And takes more."""
        self._bridge.conn_resume()
