"""Whoever stands between a bridge and what it joins for a while, to look at what passes."""

import asyncio

from tproxy.model.flow import ResetReason
from tproxy.tunnel.bridge import Bridge
from tproxy.tunnel.conn import Buffer, Conn


class StandIn(asyncio.Protocol):
    """The protocol of a client's transport and the sink of the laptop's `conn`, for `bridge`: hands everything on."""

    def __init__(self, bridge: Bridge, transport: asyncio.Transport | None, conn: Conn) -> None:
        self._bridge = bridge
        self._transport = transport
        self._conn = conn
        conn.sink = self
        if transport is not None:
            transport.set_protocol(self)

    # The client's side

    def data_received(self, data: bytes) -> None:
        """The client speaks."""
        self._bridge.data_received(data)

    def eof_received(self) -> bool:
        """The client has finished."""
        return self._bridge.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
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
        """The laptop has accepted."""
        self._bridge.conn_opened()

    def conn_data(self, data: Buffer) -> None:
        """The laptop speaks."""
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
