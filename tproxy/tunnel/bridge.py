"""Joins one TCP connection with one connection of the tunnel, so that each end sees what the other one does.

TCP                         tunnel
bytes, FIN, RST        ──>  DATA, FIN, RESET        reading stops while the tunnel is full
bytes, FIN, RST        <──  DATA, FIN, RESET        credit returns when the kernel has taken the bytes
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Sequence
from typing import cast

from tproxy.model.flow import OpenRequest, ResetReason
from tproxy.tasks import Tasks
from tproxy.tunnel.conn import Buffer, Conn
from tproxy.tunnel.endpoint import Endpoint

_LINGER_NONE = struct.pack("ii", 1, 0)


class Bridge(asyncio.Protocol):
    """The protocol of a TCP transport and the sink of a `Conn`; the two may come in either order.

    What arrives from the tunnel before TCP stands waits here, within the credit. A connection that the peer opened
    is accepted when TCP stands.
    """

    def __init__(self, conn: Conn | None = None) -> None:
        self.greeting = b""
        """What TCP is sent before anything that comes from the tunnel."""
        self._conn: Conn | None = None
        self._transport: asyncio.Transport | None = None
        self._early: list[Buffer] = []
        self._unconsumed = 0
        self._writable = True
        self._tcp_eof = False  # the TCP peer has finished
        self._conn_eof = False  # the tunnel's peer has finished
        self._reset = False
        self._connecting: asyncio.Task[None] | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the TCP connection is gone, or will never be."""
        if conn is not None:
            self.join(conn)

    def join(self, conn: Conn) -> None:
        """Take `conn` as the tunnel's side."""
        self._conn = conn
        conn.sink = self

    def abort(self, detail: str = "") -> None:
        """End both sides at once with a reset."""
        if self._conn is not None:
            self._conn.reset(ResetReason.RESET, detail)
        self.conn_reset(ResetReason.RESET, detail)

    # The TCP side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TCP stands: pass on what came early."""
        tcp = cast(asyncio.Transport, transport)  # uvloop's is one without inheriting from it
        self._transport = tcp
        if self._reset:
            abort_with_reset(tcp)
            return
        if self.greeting:
            tcp.write(self.greeting)
        early, self._early = self._early, []
        for data in early:
            self.conn_data(data)
        if self._conn_eof:
            self._finish_tcp(tcp)
        if self._conn is not None:
            self._conn.accept()

    def data_received(self, data: bytes) -> None:
        """Bytes of the TCP peer."""
        if self._conn is not None:
            self._conn.write(data)

    def eof_received(self) -> bool:
        """The TCP peer has finished; the other direction stays open."""
        self._tcp_eof = True
        if self._conn is not None:
            self._conn.write_eof()
        if self._conn_eof and self._transport is not None:
            self._transport.close()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """TCP is gone: both directions have finished, or it broke."""
        conn = self._conn
        if conn is not None:
            if exc is not None or not (self._tcp_eof and self._conn_eof):
                conn.reset(ResetReason.RESET)
            unconsumed, self._unconsumed = self._unconsumed, 0
            conn.consumed(unconsumed)
        self._over()

    def pause_writing(self) -> None:
        """The TCP peer reads more slowly than the tunnel brings."""
        self._writable = False

    def resume_writing(self) -> None:
        """The kernel has taken most of it."""
        self._writable = True
        unconsumed, self._unconsumed = self._unconsumed, 0
        if self._conn is not None:
            self._conn.consumed(unconsumed)

    # The tunnel's side

    def conn_opened(self) -> None:
        """Nothing to do: the TCP peer has been sending all along."""

    def conn_data(self, data: Buffer) -> None:
        """Bytes from the tunnel."""
        transport = self._transport
        if transport is None:
            self._early.append(data)
            return
        if not transport.is_closing():
            transport.write(data)
        if self._writable and self._conn is not None:
            self._conn.consumed(len(data))
        else:
            self._unconsumed += len(data)

    def conn_eof(self) -> None:
        """The far end has finished; the other direction stays open."""
        self._conn_eof = True
        if self._transport is not None and not self._transport.is_closing():
            self._finish_tcp(self._transport)

    def conn_reset(self, reason: ResetReason, detail: str) -> None:
        """The far end is gone: the TCP peer sees a reset, after the bytes that the kernel has taken."""
        self._reset = True
        self._early.clear()
        if self._connecting is not None:
            self._connecting.cancel()
        if self._transport is None:
            self._over()
        else:
            abort_with_reset(self._transport)

    def conn_pause(self) -> None:
        """The tunnel is full."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def conn_resume(self) -> None:
        """The tunnel takes more."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _finish_tcp(self, transport: asyncio.Transport) -> None:
        with contextlib.suppress(OSError):  # reset this very moment: connection_lost will say so
            transport.write_eof()
        if self._tcp_eof:
            transport.close()

    def _over(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


def abort_with_reset(transport: asyncio.Transport | None) -> None:
    """Close `transport` so that its peer sees RST, not an orderly end."""
    if transport is None or transport.is_closing():
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
    try:
        await asyncio.get_running_loop().connect_accepted_socket(lambda: bridge, sock)
    except OSError:
        bridge.abort()
        raise
    return bridge


def connect_bridge(
    conn: Conn,
    addresses: Sequence[tuple[str, int]],
    tasks: Tasks,
    on_failure: Callable[[OSError], None] | None = None,
) -> Bridge:
    """Join `conn` with the local app at the first of `addresses` that answers; returns at once, as `on_open` must.

    Bytes that arrive before the app has answered wait within their credit. If none answers, the connection is reset
    with the first address's reason and `on_failure` is told.
    """
    bridge = Bridge(conn)
    bridge._connecting = tasks.start(_connect(bridge, conn, addresses, on_failure), f"connect {conn.id}")
    return bridge


async def _connect(
    bridge: Bridge,
    conn: Conn,
    addresses: Sequence[tuple[str, int]],
    on_failure: Callable[[OSError], None] | None,
) -> None:
    loop = asyncio.get_running_loop()
    failure: OSError | None = None
    for host, port in addresses:
        try:
            await loop.create_connection(lambda: bridge, host, port)
        except OSError as error:
            failure = failure or error
        else:
            bridge._connecting = None
            return
    bridge._connecting = None
    if failure is not None:
        conn.reset(reset_reason(failure), failure.strerror or "timed out")
        bridge._over()
        if on_failure is not None:
            on_failure(failure)


def reset_reason(error: OSError) -> ResetReason:
    """What a failed connect means to the client at the far end."""
    if isinstance(error, ConnectionRefusedError):
        return ResetReason.REFUSED
    if isinstance(error, ConnectionResetError):  # accepted, and reset before we were told
        return ResetReason.RESET
    if isinstance(error, TimeoutError):
        return ResetReason.TIMED_OUT
    if isinstance(error, socket.gaierror):
        return ResetReason.NO_SUCH_HOST
    return ResetReason.UNREACHABLE
