"""The end of a client's connection that has been told something of ours: it may go on sending for a moment.

Closed at once, with bytes of the client still unread, it would be reset, and the client perhaps never see what it was
told.
"""

import asyncio
import contextlib

LINGER_SECONDS = 5.0


class Lingering(asyncio.Protocol):
    """Writes `last`, and waits for the client to end, which it may have done already (`eof`)."""

    def __init__(self, transport: asyncio.Transport, last: bytes, eof: bool) -> None:
        self._transport = transport
        self._timer: asyncio.TimerHandle | None = None
        transport.set_protocol(self)
        transport.write(last)
        if eof:
            transport.close()
            return
        with contextlib.suppress(OSError):  # gone this very moment: connection_lost will say so
            transport.write_eof()
        self._timer = asyncio.get_running_loop().call_later(LINGER_SECONDS, transport.abort)

    def data_received(self, data: bytes) -> None:
        """Nobody is interested."""

    def eof_received(self) -> bool:
        """It has seen everything."""
        self._transport.close()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Gone."""
        if self._timer is not None:
            self._timer.cancel()
