"""Waits for the first word on a connection to the laptop, because a health check's belongs to the app.

    client speaks first ──► a probe ──────────► the app takes over, with these bytes
                        └─► anything else ──┐
    laptop speaks first ────────────────────┴─► the two are joined, and nobody looks at their bytes again

The connection to the laptop is open all the while, so nobody waits for anybody, whoever speaks first. Only when the
laptop refuses before the client has said anything does the client learn it a little later: it might be a probe.
"""

import asyncio
from collections.abc import Callable
from typing import cast

from tproxy.http.probe import Verdict
from tproxy.model.flow import ResetReason
from tproxy.tunnel.bridge import Bridge
from tproxy.tunnel.conn import Buffer, Conn

REFUSAL_SECONDS = 0.2
"""How long a client that has said nothing is kept after the laptop refused its connection."""


class FirstBytes(asyncio.Protocol):
    """Stands in for `bridge`, as the protocol of its transport and the sink of its `conn`, until somebody speaks.

    `classify` gets what the client sent so far. `on_settled` is called with None when the bridge takes over, else with
    the transport and the bytes of a probe; the bridge never hears of the transport again then.
    """

    def __init__(
        self,
        bridge: Bridge,
        conn: Conn,
        classify: Callable[[bytes], Verdict],
        on_settled: Callable[[tuple[asyncio.Transport, bytes] | None], None],
    ) -> None:
        self._bridge = bridge
        self._conn = conn
        self._classify = classify
        self._on_settled = on_settled
        self._transport: asyncio.Transport | None = None
        self._held = b""
        self._refused: tuple[ResetReason, str] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._settled = False
        conn.sink = self

    # The client's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called for a transport that has stood for a while."""
        self._transport = cast(asyncio.Transport, transport)
        self._bridge.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """The client speaks."""
        data = self._held + data
        verdict = self._classify(data)
        if verdict is Verdict.UNFINISHED:
            self._held = data
        elif verdict is Verdict.PROBE and self._transport is not None:
            self._settle((self._transport, data))
        else:
            self._held = data
            self._join()

    def eof_received(self) -> bool:
        """The client has nothing to say, or no more than what is held."""
        self._join()
        return self._bridge.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone without a word."""
        self._transport = None
        self._refused = None
        self._settle(None)
        self._bridge.connection_lost(exc)

    # The laptop's side

    def conn_opened(self) -> None:
        """That says nothing yet."""

    def conn_data(self, data: Buffer) -> None:
        """The laptop speaks."""
        self._join()
        self._bridge.conn_data(data)

    def conn_eof(self) -> None:
        """The laptop has nothing to say."""
        self._join()
        self._bridge.conn_eof()

    def conn_reset(self, reason: ResetReason, detail: str) -> None:
        """The laptop refuses, or is gone: so it is for the client, unless that turns out to be a probe."""
        self._refused = (reason, detail)
        self._timer = asyncio.get_running_loop().call_later(REFUSAL_SECONDS, self._join)

    def conn_pause(self) -> None:
        """Nothing has been written."""

    def conn_resume(self) -> None:
        """Nothing has been written."""

    def _join(self) -> None:
        if self._settled:
            return
        held, self._held = self._held, b""
        self._settle(None)
        if held:
            self._bridge.data_received(held)

    def _settle(self, probe: tuple[asyncio.Transport, bytes] | None) -> None:
        if self._settled:
            return
        self._settled = True
        if self._timer is not None:
            self._timer.cancel()
        self._on_settled(probe)
        if probe is None:
            self._conn.sink = self._bridge
            if self._transport is not None:
                self._transport.set_protocol(self._bridge)
            if self._refused is not None:
                self._bridge.conn_reset(*self._refused)
