"""Accepting connections so that none is forgotten.

asyncio's own server makes the transport of a connection one turn of the loop after it has accepted it. Closed in
between it leaves the connection open, with nobody to serve or to end it (CPython 3.11: an assertion fails in
`_accept_connection2`, and nobody hears of it).
"""

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable

from tproxy.tasks import Tasks

log = logging.getLogger(__name__)

PAUSE_SECONDS = 0.5
"""How long nothing is accepted when descriptors have run out."""

HANDSHAKE_SECONDS = 5.0
"""How long a client may take for TLS."""

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Accepting:
    """Gives each connection to `listener` a protocol of `factory`, until `close`. Made in a running loop."""

    def __init__(
        self,
        listener: socket.socket,
        factory: Callable[[], asyncio.Protocol],
        what: str,
        tls: ssl.SSLContext | None = None,
        room: Callable[[], bool] = lambda: True,
    ) -> None:
        """With `tls` protocols see a connection after the handshake. Without `room` connections are closed at once."""
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._factory = factory
        self._tls = tls
        self._room = room
        self._what = what
        self._tasks = Tasks(what)
        self.handshakes = 0
        """Connections that have no protocol yet."""
        self._waiting: set[socket.socket] = set()  # accepted, and their task not begun
        self._pause: asyncio.TimerHandle | None = None
        listener.setblocking(False)
        self._resume()

    async def close(self) -> None:
        """Accept no more, and end connections that have no transport yet."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listener)
        self._listener.close()
        await self._tasks.close()
        while self._waiting:
            self._waiting.pop().close()

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        try:
            accepted, _ = self._listener.accept()
        except OSError as error:
            if error.errno in _EXHAUSTED:
                self._loop.remove_reader(self._listener)
                self._pause = self._loop.call_later(PAUSE_SECONDS, self._resume)
            return  # otherwise the client has gone before its turn
        if not self._room():
            accepted.close()
            return
        accepted.setblocking(False)
        self.handshakes += 1
        self._waiting.add(accepted)
        self._tasks.start(self._serve(accepted), "accept")

    async def _serve(self, accepted: socket.socket) -> None:
        self._waiting.discard(accepted)
        try:
            limit = HANDSHAKE_SECONDS if self._tls is not None else None
            await self._loop.connect_accepted_socket(
                self._factory, accepted, ssl=self._tls, ssl_handshake_timeout=limit
            )
        except OSError as error:
            accepted.close()
            log.debug("%s: %s", self._what, error)  # strangers may do that as often as they like
        except BaseException:
            accepted.close()
            raise
        finally:
            self.handshakes -= 1
