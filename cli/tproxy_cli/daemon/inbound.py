"""Connections that a node opens towards this laptop: only those of intercepts made here, and only to their ports.

The local app is asked for at 127.0.0.1 first, then at ::1 (Node.js and others listen on one of them only).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from tproxy.model.flow import FlowKind, ResetReason
from tproxy.tasks import Tasks
from tproxy.tunnel.bridge import Bridge, reset_reason
from tproxy.tunnel.endpoint import Conn

log = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.1", "::1")
CONNECT_SECONDS = 30.0
"""A local app that accepts nothing (stopped in a debugger, its backlog full) keeps its clients waiting this long."""

PortOf = Callable[[str, int], Awaitable[int | None]]
"""The laptop's port for an intercept's UID and a port of the pod, or None if this laptop made no such intercept."""


class Inbound:
    """Serves the tunnels of one session."""

    def __init__(self, port_of: PortOf) -> None:
        self._port_of = port_of
        self._tasks = Tasks("inbound")

    def on_open(self, conn: Conn) -> None:
        """A node opened `conn`."""
        self._tasks.start(self._serve(conn, Bridge(conn)), "connect")

    async def close(self) -> None:
        """Give up connects under way."""
        await self._tasks.close()

    async def _serve(self, conn: Conn, bridge: Bridge) -> None:
        request = conn.request
        port = await self._port_of(request.intercept, request.destination.port)
        if port is None or request.kind is not FlowKind.INBOUND or request.protocol != "tcp":
            log.warning("refused a connection of an intercept not made here", extra={"intercept": request.intercept})
            conn.reset(ResetReason.DENIED, "this laptop did not create the intercept")
            return
        failure = await _connect(bridge, port)
        if failure is not None and not conn.closed:
            conn.reset(reset_reason(failure), f"the local app at port {port}: {failure.strerror or 'timed out'}")
        elif failure is None and conn.closed:  # the client went away meanwhile
            bridge.conn_reset(ResetReason.RESET, "")


async def _connect(bridge: Bridge, port: int) -> OSError | None:
    """Join `bridge` with the local app, or return why that failed."""
    loop = asyncio.get_running_loop()
    failure: OSError | None = None
    for host in LOOPBACK:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await loop.create_connection(lambda: bridge, host, port)
        except OSError as error:  # TimeoutError is one
            failure = failure or error  # what 127.0.0.1 said counts: there may be no ::1 at all
        else:
            return None
    return failure
