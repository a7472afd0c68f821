"""What a node opens towards this laptop: only for intercepts made here, and only to their ports.

The local app is asked for at 127.0.0.1 first, then at ::1 (Node.js and others listen on one of them only).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from tproxy.model.flow import FlowKind, ResetReason
from tproxy.model.intercept import InterceptPort
from tproxy.tasks import Tasks
from tproxy.tunnel.bridge import Bridge, reset_reason
from tproxy.tunnel.endpoint import Conn
from tproxy.tunnel.proxy_protocol import header
from tproxy_cli.daemon.held import LocalApp
from tproxy_cli.daemon.local_flow import LOOPBACK, LocalFlow

log = logging.getLogger(__name__)

CONNECT_SECONDS = 30.0
"""A local app that accepts nothing (stopped in a debugger, its backlog full) keeps its clients waiting this long."""

AppOf = Callable[[str, InterceptPort], Awaitable[LocalApp | None]]
"""The local app for an intercept's UID and a port of the pod, or None if this laptop made no such intercept."""

Connect = Callable[[LocalApp, Callable[[], asyncio.Protocol]], Awaitable[None]]
"""Connects to a local app with a protocol. Raises OSError."""


class Inbound:
    """Serves the tunnels of one session."""

    def __init__(self, app_of: AppOf, connect: Connect) -> None:
        self._app_of = app_of
        self._connect = connect
        self._tasks = Tasks("inbound")

    def on_open(self, conn: Conn) -> None:
        """A node opened `conn`."""
        if conn.request.protocol == "udp":
            self._tasks.start(self._serve_udp(conn, LocalFlow(conn)), "flow")
        else:
            self._tasks.start(self._serve(conn, Bridge(conn)), "connect")

    async def close(self) -> None:
        """Give up connects under way."""
        await self._tasks.close()

    async def _app(self, conn: Conn, protocol: str) -> LocalApp | None:
        """Whom `conn` is for; None if it has been refused."""
        request = conn.request
        app = await self._app_of(request.intercept, InterceptPort(request.destination.port, protocol))
        if app is None or request.kind is not FlowKind.INBOUND or request.protocol.upper() != protocol:
            log.warning("refused a connection of an intercept not made here", extra={"intercept": request.intercept})
            conn.reset(ResetReason.DENIED, "this laptop did not create the intercept")
            return None
        return app

    async def _serve_udp(self, conn: Conn, flow: LocalFlow) -> None:
        app = await self._app(conn, "UDP")
        if app is not None:
            flow.begin(app.port)

    async def _serve(self, conn: Conn, bridge: Bridge) -> None:
        app = await self._app(conn, "TCP")
        if app is None:
            return
        if app.proxy_protocol is not None:
            bridge.greeting = header(app.proxy_protocol, conn.request.source, conn.request.destination)
        try:
            await self._connect(app, lambda: bridge)
        except OSError as failure:
            if not conn.closed:
                conn.reset(
                    reset_reason(failure), f"the local app at port {app.port}: {failure.strerror or 'timed out'}"
                )
        else:
            if conn.closed:  # the client went away meanwhile
                bridge.conn_reset(ResetReason.RESET, "")


async def connect_laptop(app: LocalApp, protocol: Callable[[], asyncio.Protocol]) -> None:
    """Connect to a port of the laptop's own. Raises OSError."""
    loop = asyncio.get_running_loop()
    failure: OSError | None = None
    for host in LOOPBACK:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await loop.create_connection(protocol, host, app.port)
        except OSError as error:  # TimeoutError is one
            failure = failure or error  # what 127.0.0.1 said counts: there may be no ::1 at all
        else:
            return
    assert failure is not None  # noqa: S101
    raise failure
