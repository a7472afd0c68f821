"""The two ends that are TCP: the client's connection and one to the app, as `tproxy.http` wants them.

Where nothing has to be done in between, methods are replaced by those of the transport or the router: one call less for
every read and write.
"""

import asyncio
import contextlib
import functools
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from tproxy.connecting import connect
from tproxy.http.port import Buffer, Router
from tproxy.model.flow import ResetReason
from tproxy.tunnel.bridge import abort_with_reset, reset_reason

if TYPE_CHECKING:
    from tproxy_node.personal.hop import ClientHop

EARLY_LIMIT = 64 * 1024
"""Bytes that wait for a connection to the app to stand before its client is asked to wait."""


def _ignore(*_: object) -> None:
    """Nobody is interested."""


class ClientEnd:
    """The client's connection. `eof`: the client has finished."""

    data_received: Callable[[bytes], None]
    pause_writing: Callable[[], None]
    resume_writing: Callable[[], None]
    write: Callable[[Buffer], None]

    def __init__(self, hop: "ClientHop", transport: asyncio.Transport) -> None:
        self.eof = False
        self.over = False
        self._hop = hop
        self._transport = transport
        self.write = transport.write

    def listen(self, router: Router) -> None:
        """Tell what happens to `router` from now on."""
        if self.over:
            return
        self.data_received = router.client_data
        self.pause_writing = router.client_pause
        self.resume_writing = router.client_resume
        # Event loops remember the methods of the protocol they were given.
        self._transport.set_protocol(cast(asyncio.Protocol, self))

    def eof_received(self) -> bool:
        """The client sends no more."""
        self.eof = True
        if not self.over:
            self._hop.router.client_eof()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Gone, in one way or another."""
        if not self.over:
            self._end()
            self._hop.router.client_lost()
        self._hop.ended()

    def write_eof(self) -> None:
        """See `End`."""
        if not self.over and not self._transport.is_closing():
            with contextlib.suppress(OSError):  # gone this very moment: connection_lost will say so
                self._transport.write_eof()

    def close(self) -> None:
        """See `End`."""
        if not self.over:
            self._end()
            self._transport.close()

    def reset(self) -> None:
        """See `End`."""
        if not self.over:
            self._end()
            abort_with_reset(self._transport)

    def pause(self) -> None:
        """See `End`."""
        if not self.over and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """See `End`."""
        if not self.over and not self._transport.is_closing():
            self._transport.resume_reading()

    def _end(self) -> None:
        self.over = True
        self.write = self.data_received = self.pause_writing = self.resume_writing = _ignore
        self._transport.set_protocol(cast(asyncio.Protocol, self))


class AppEnd:
    """A connection to the app. What is written before it stands waits here."""

    reused = False
    data_received: Callable[[bytes], None]
    write: Callable[[Buffer], None]

    def __init__(self, hop: "ClientHop") -> None:
        self.eof = False
        self._hop = hop
        self.over = False
        self.failed = False  # it could not be reached
        self._transport: asyncio.Transport | None = None
        self._early: list[Buffer] = []
        self._early_size = 0
        self._full = False
        self._finished = False  # we have
        self._paused = False
        self._gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.write = self._write_early
        self.data_received = self._tell

    def listen(self, router: Router) -> None:
        """Tell what the app says to `router` from now on, without asking each time whose router it is."""
        if not self.over:
            self._hear(functools.partial(router.upstream_data, self))

    def _hear(self, data_received: Callable[[bytes], None]) -> None:
        self.data_received = data_received
        if self._transport is not None:
            self._transport.set_protocol(cast(asyncio.Protocol, self))  # as in `ClientEnd.listen`

    @property
    def connected(self) -> bool:
        """Whether it stands, or stood."""
        return self._transport is not None

    async def connect(self, sock: socket.socket, address: tuple[str, int]) -> None:
        """Connect `sock` and wait for the end of the connection."""
        loop = asyncio.get_running_loop()
        try:
            await connect(sock, address)
            await loop.create_connection(lambda: cast(asyncio.Protocol, self), sock=sock)
        except OSError as error:
            self.fail(error)
        else:
            await self._gone

    def fail(self, error: OSError) -> None:
        """It cannot be reached."""
        if not self.over:
            self.failed = True
            self._end()
            self._hop.router.upstream_lost(self, reset_reason(error), error.strerror or "timed out")
            self._hop.app_ended(self)

    # As a protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected: what waits goes out."""
        tcp = cast(asyncio.Transport, transport)
        self._transport = tcp
        if self.over:
            abort_with_reset(tcp)
            return
        self._hear(self.data_received)  # what the loop remembers may be from before
        for data in self._early:
            tcp.write(data)
        self._early.clear()
        self.write = tcp.write
        if self._finished:
            tcp.write_eof()
        if self._paused:
            tcp.pause_reading()
        if self._full:
            self._hop.router.upstream_resume(self)

    def _tell(self, data: bytes) -> None:
        """The app speaks."""
        self._hop.router.upstream_data(self, data)

    def eof_received(self) -> bool:
        """The app sends no more."""
        self.eof = True
        if not self.over:
            self._hop.router.upstream_eof(self)
        return True

    def pause_writing(self) -> None:
        """The app reads slowly."""
        if not self.over:
            self._hop.router.upstream_pause(self)

    def resume_writing(self) -> None:
        """It has caught up."""
        if not self.over:
            self._hop.router.upstream_resume(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Gone, in one way or another."""
        if not self.over:
            self._end()
            self._hop.router.upstream_lost(self, ResetReason.RESET, "")
        if not self._gone.done():
            self._gone.set_result(None)
        self._hop.app_ended(self)

    # As an `Upstream`

    def _write_early(self, data: Buffer) -> None:
        if self._transport is not None:
            self._transport.write(data)  # somebody has kept this method
            return
        self._early.append(data)
        self._early_size += len(data)
        if self._early_size > EARLY_LIMIT and not self._full:
            self._full = True
            self._hop.router.upstream_pause(self)

    def write_eof(self) -> None:
        """See `End`."""
        self._finished = True
        if self._transport is not None and not self.over and not self._transport.is_closing():
            with contextlib.suppress(OSError):
                self._transport.write_eof()

    def close(self) -> None:
        """See `End`."""
        if self.over:
            return
        self._end()
        if self._transport is not None:
            self._transport.close()
        else:
            self._hop.app_ended(self)

    release = close

    def reset(self) -> None:
        """See `End`."""
        if self.over:
            return
        self._end()
        if self._transport is not None:
            abort_with_reset(self._transport)
        else:
            self._hop.app_ended(self)

    def pause(self) -> None:
        """See `End`."""
        self._paused = True
        if self._transport is not None and not self.over and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """See `End`."""
        self._paused = False
        if self._transport is not None and not self.over and not self._transport.is_closing():
            self._transport.resume_reading()

    def _end(self) -> None:
        self.over = True
        self._early.clear()
        self.write = _ignore
        self._hear(_ignore)
