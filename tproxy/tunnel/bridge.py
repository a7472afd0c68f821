"""Joins one TCP connection with one connection of the tunnel, so that each end sees what the other does."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Sequence
from typing import cast

from tproxy.model.flow import OpenRequest, ResetReason
from tproxy.tasks import Tasks
from tproxy.tunnel.endpoint import Conn, Endpoint

_LINGER_NONE = struct.pack("ii", 1, 0)


class Bridge(asyncio.Protocol):
    """One TCP transport and one `Conn`. Give it to `create_connection`, `connect_accepted_socket` or the like.

    `conn` may be set before or after the transport is there; bytes from the tunnel wait within their credit.
    """

    def __init__(self, conn: Conn | None = None) -> None:
        self._conn: Conn | None = None
        self._transport: asyncio.Transport | None = None
        self._early: list[bytes] = []
        self._early_eof = False
        self._unconsumed = 0
        self._writable = True
        self._tcp_eof = False
        self._eof_written = False
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if conn is not None:
            self.join(conn)

    def join(self, conn: Conn) -> None:
        """Take `conn` as the tunnel's side."""
        self._conn = conn
        conn.sink = self

    # The TCP side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TCP stands: pass on what came early."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without inheriting from it
        early, self._early = self._early, []
        for data in early:
            self.conn_data(data)
        if self._early_eof:
            self.conn_eof()
        if self._conn is not None:
            self._conn.accept()

    def data_received(self, data: bytes) -> None:
        """Bytes of the TCP peer."""
        if self._conn is not None:
            self._conn.write(data)

    def eof_received(self) -> bool:
        """The TCP peer sends no more; keep the transport open."""
        self._tcp_eof = True
        if self._conn is not None:
            self._conn.write_eof()
        self._end_if_over()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """TCP is gone: by its peer's reset, or because both directions have ended."""
        conn = self._conn
        if conn is not None and not conn.closed and (exc is not None or not self._tcp_eof):
            conn.reset(ResetReason.RESET)
        if not self.done.done():
            self.done.set_result(None)

    def pause_writing(self) -> None:
        """The TCP peer reads slowly."""
        self._writable = False

    def resume_writing(self) -> None:
        """The TCP peer has caught up."""
        self._writable = True
        size, self._unconsumed = self._unconsumed, 0
        if self._conn is not None:
            self._conn.consumed(size)

    # The tunnel's side

    def conn_opened(self) -> None:
        """Nothing to do: the client has been sending already."""

    def conn_data(self, data: bytes) -> None:
        """Bytes from the tunnel."""
        if self._transport is None:
            self._early.append(data)
            return
        self._transport.write(data)
        if self._writable and self._conn is not None:
            self._conn.consumed(len(data))
        else:
            self._unconsumed += len(data)

    def conn_eof(self) -> None:
        """The far end sends no more."""
        if self._transport is None:
            self._early_eof = True
        elif not self._transport.is_closing():
            with contextlib.suppress(OSError):
                self._transport.write_eof()
            self._eof_written = True
            self._end_if_over()

    def _end_if_over(self) -> None:
        if self._tcp_eof and self._eof_written and self._transport is not None:
            self._transport.close()

    def conn_reset(self, reason: ResetReason, detail: str) -> None:
        """The far end is gone: let the TCP peer see a reset."""
        abort_with_reset(self._transport)

    def conn_pause(self) -> None:
        """The tunnel is full."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def conn_resume(self) -> None:
        """The tunnel takes more."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()


def abort_with_reset(transport: asyncio.Transport | None) -> None:
    """Close `transport` so that its peer sees RST, not an orderly end."""
    if transport is None:
        return
    sock = transport.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
    transport.abort()


async def bridge_socket(endpoint: Endpoint, request: OpenRequest, sock: socket.socket) -> Bridge:
    """Open a connection through `endpoint` and join it with `sock`, an accepted non-blocking TCP socket.

    Takes `sock` over. Raises OSError when it is no longer connected.
    """
    bridge = Bridge()
    bridge.join(endpoint.open(request, bridge))
    await asyncio.get_running_loop().connect_accepted_socket(lambda: bridge, sock)
    return bridge


def connect_bridge(
    conn: Conn, addresses: Sequence[tuple[str, int]], tasks: Tasks, on_failure: Callable[[OSError], None] | None = None
) -> Bridge:
    """Join `conn` with the local app at the first of `addresses` that answers; returns at once, as `on_open` must.

    Bytes that arrive before the app has answered wait within their credit. If nothing answers, the connection is
    reset with the reason and `on_failure` is told.
    """
    bridge = Bridge(conn)
    tasks.start(_connect(bridge, conn, addresses, on_failure), f"connect {conn.id}")
    return bridge


async def _connect(
    bridge: Bridge,
    conn: Conn,
    addresses: Sequence[tuple[str, int]],
    on_failure: Callable[[OSError], None] | None,
) -> None:
    failure: OSError | None = None
    for host, port in addresses:
        try:
            await asyncio.get_running_loop().create_connection(lambda: bridge, host, port)
            return
        except OSError as error:
            failure = failure or error
    if failure is not None:
        conn.reset(reset_reason(failure), str(failure))
        if on_failure is not None:
            on_failure(failure)


def reset_reason(error: OSError) -> ResetReason:
    """What a failed connect means to the client at the far end."""
    if isinstance(error, ConnectionRefusedError):
        return ResetReason.REFUSED
    if isinstance(error, TimeoutError):
        return ResetReason.TIMED_OUT
    if isinstance(error, socket.gaierror):
        return ResetReason.NO_SUCH_HOST
    return ResetReason.UNREACHABLE
