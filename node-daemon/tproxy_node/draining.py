"""What becomes of connections that are with the laptop when their intercept is left.

    the client's next HTTP/1 request ──► the app, from then on
    anything else ─────────────────────► the laptop, as long as `--drain` says; then it is reset

A request that the client begins after the laptop has spoken last is the first that the laptop has not heard of: whoever
answers it, nothing is torn apart. The client goes on with the same connection, and notices nothing.
"""

import asyncio
from collections.abc import Callable

from tproxy.http.boundary import begins_request
from tproxy.steer.tcp_info import TcpInfo
from tproxy.tunnel.bridge import Bridge
from tproxy.tunnel.conn import Buffer, Conn
from tproxy_node.farewell import Farewell
from tproxy_node.standing_in import StandIn

HandOver = Callable[[asyncio.Transport, bytes], None]
"""Gets the client's transport and what the client has just sent."""


class Draining(StandIn):
    """Stands in for `bridge`, as the protocol of its transport and the sink of its `conn`, until a request begins."""

    def __init__(self, bridge: Bridge, transport: asyncio.Transport, conn: Conn, hand_over: HandOver) -> None:
        self._client = transport
        self._hand_over = hand_over
        self._over = False
        # The laptop has spoken last, or nobody has at all.
        self._answered = TcpInfo.of(transport.get_extra_info("socket")).spoke_last
        super().__init__(bridge, transport, conn)

    def data_received(self, data: bytes) -> None:
        """The client speaks."""
        if self._between(data):
            self._over = True
            Farewell(self._conn)
            self._hand_over(self._client, data)
            return
        self._answered = False
        super().data_received(data)

    def _between(self, data: bytes) -> bool:
        waiting = self._conn.queued or self._client.get_write_buffer_size()
        return self._answered and not waiting and not self._conn.closed and begins_request(data)

    def eof_received(self) -> bool:
        """The client has finished."""
        self._answered = False
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        if not self._over:
            super().connection_lost(exc)

    def conn_data(self, data: Buffer) -> None:
        """The laptop speaks."""
        self._answered = True
        super().conn_data(data)
