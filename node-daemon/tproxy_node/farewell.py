"""Ends a connection through the tunnel in order, when nobody this side has anything more to say or to hear.

A reset would do as well, but servers complain about resets, and people then look for a fault that there is none.
"""

import asyncio

from tproxy.model.flow import ResetReason
from tproxy.tunnel.conn import Buffer, Conn

PATIENCE_SECONDS = 2.0
"""How long the far end gets to finish as well."""


class Farewell:
    """The last sink of `conn`: no more bytes go there, and what still comes ends it."""

    def __init__(self, conn: Conn) -> None:
        self._conn = conn
        conn.sink = self
        conn.write_eof()
        self._timer = asyncio.get_running_loop().call_later(PATIENCE_SECONDS, self._end)

    def conn_opened(self) -> None:
        """Nothing changes."""

    def conn_data(self, data: Buffer) -> None:
        """Nobody reads that."""
        self._conn.consumed(len(data))
        self._end()

    def conn_eof(self) -> None:
        """In order."""
        self._timer.cancel()

    def conn_reset(self, reason: ResetReason, detail: str) -> None:
        """That is an end too."""
        self._timer.cancel()

    def conn_pause(self) -> None:
        """Nothing is written."""

    def conn_resume(self) -> None:
        """Nothing is written."""

    def _end(self) -> None:
        self._timer.cancel()
        self._conn.reset(ResetReason.RESET, "nobody is there any more")
