"""What becomes of connections that are with the laptop when their intercept is left.

    the client's next HTTP/1 request ──► the app, from then on
    anything else ─────────────────────► the laptop, as long as `--drain` says; then it is reset

A request that the client begins after the laptop has spoken last is the first that the laptop has not heard of: whoever
answers it, nothing is torn apart. The client goes on with the same connection, and notices nothing.
"""

import asyncio
from collections.abc import Callable

from tproxy.http.boundary import begins_request
from tproxy.model.flow import ResetReason
from tproxy.steer.tcp_info import TcpInfo
from tproxy.tunnel.bridge import Bridge
from tproxy.tunnel.conn import Buffer, Conn
from tproxy_node.farewell import Farewell

HandOver = Callable[[asyncio.Transport, bytes], None]
"""Gets the client's transport and what the client has just sent."""


class Draining(asyncio.Protocol):
    """Stands in for `bridge`, as the protocol of its transport and the sink of its `conn`, until a request begins."""

    def __init__(self, bridge: Bridge, transport: asyncio.Transport, conn: Conn, hand_over: HandOver) -> None:
        self._bridge = bridge
        self._transport = transport
        self._conn = conn
        self._hand_over = hand_over
        self._over = False
        # The laptop has spoken last, or nobody has at all.
        self._answered = TcpInfo.of(transport.get_extra_info("socket")).spoke_last
        conn.sink = self
        transport.set_protocol(self)

    # The client's side

    def data_received(self, data: bytes) -> None:
        """The client speaks."""
        if self._between(data):
            self._over = True
            Farewell(self._conn)
            self._hand_over(self._transport, data)
            return
        self._answered = False
        self._bridge.data_received(data)

    def _between(self, data: bytes) -> bool:
        waiting = self._conn.queued or self._transport.get_write_buffer_size()
        return self._answered and not waiting and not self._conn.closed and begins_request(data)

    def eof_received(self) -> bool:
        """The client has finished."""
        self._answered = False
        return self._bridge.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        if not self._over:
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
        self._bridge.conn_opened()

    def conn_data(self, data: Buffer) -> None:
        """The laptop speaks."""
        self._answered = True
        self._bridge.conn_data(data)

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
