"""The first moments between a client and a laptop that have both spoken HTTP/2 with us before they met."""

import asyncio

from tproxy.http.greeting import Greeting
from tproxy.tunnel.bridge import Bridge
from tproxy.tunnel.conn import Buffer, Conn
from tproxy_node.standing_in import StandIn


class Greeted(StandIn):
    """Stands in for `bridge`, as the protocol of its transport and the sink of its `conn`.

    Keeps from each the acknowledgement that was meant for us, and then gets out of the way.
    """

    def __init__(self, bridge: Bridge, transport: asyncio.Transport | None, conn: Conn, greeting: Greeting) -> None:
        self._client, self._laptop = greeting.filters()
        super().__init__(bridge, transport, conn)

    def _leave(self) -> None:
        if self._client.done and self._laptop.done:
            self._conn.sink = self._bridge
            if self._transport is not None:
                self._transport.set_protocol(self._bridge)

    def data_received(self, data: bytes) -> None:
        """The client speaks."""
        if data := self._client.feed(data):
            super().data_received(data)
        self._leave()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._transport = None
        super().connection_lost(exc)

    def conn_opened(self) -> None:
        """The bridge was opened before us."""

    def conn_data(self, data: Buffer) -> None:
        """The laptop speaks."""
        passed = self._laptop.feed(bytes(data))
        self._conn.consumed(len(data) - len(passed))
        if passed:
            super().conn_data(passed)
        self._leave()
