"""What the node says to a laptop on a connection of its own, no faster than it is taken."""

import asyncio
from collections.abc import Callable

from tproxy.model.flow import ResetReason
from tproxy.tunnel.conn import Buffer, Conn

_CHUNK = 64 * 1024


class Paced:
    """The sink of such a connection. `on_gone` is called if the laptop has enough, or is gone."""

    def __init__(self, conn: Conn) -> None:
        self.on_gone: Callable[[], object] = lambda: None
        self._conn = conn
        self._writable = asyncio.Event()
        self._writable.set()
        conn.sink = self

    async def write(self, data: Buffer) -> None:
        """All of it."""
        view = memoryview(data)
        for at in range(0, len(data), _CHUNK):
            await self._writable.wait()
            self._conn.write(view[at : at + _CHUNK])

    def conn_opened(self) -> None:
        """Not for connections of the peer."""

    def conn_data(self, data: Buffer) -> None:
        """There is nothing to say to us."""
        self._conn.consumed(len(data))

    def conn_eof(self) -> None:
        """The laptop says no more."""

    def conn_reset(self, reason: ResetReason, detail: str) -> None:
        """The laptop has enough, or is gone."""
        self.on_gone()

    def conn_pause(self) -> None:
        """Wait."""
        self._writable.clear()

    def conn_resume(self) -> None:
        """Go on."""
        self._writable.set()
