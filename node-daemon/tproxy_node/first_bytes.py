"""Waits for the first word on a connection to the laptop, because a health check's belongs to the app.

    client speaks first ──► a probe ──────────► the app takes over, with these bytes
                        └─► anything else ──┐
    laptop speaks first ────────────────────┴─► the two are joined, and nobody looks at their bytes again

The connection to the laptop is open all the while, so nobody waits for anybody, whoever speaks first. Only when the
laptop refuses before the client has said anything does the client learn it a little later: it might be a probe.

HTTP/2, and so gRPC, is another matter: the client says what it wants only after it has been greeted. Where a probe may
come from, we greet (`tproxy.http.greeting`), whether the laptop does or not.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import cast

from tproxy.http.greeting import OUR_SETTINGS, Greeting, are_settings
from tproxy.http.probe import Verdict, speaks_http2
from tproxy.model.flow import ResetReason
from tproxy.steer.tcp_info import waiting
from tproxy.tunnel.bridge import Bridge
from tproxy.tunnel.conn import Buffer, Conn
from tproxy_node.greeted import Greeted

REFUSAL_SECONDS = 0.2
"""How long a client that has said nothing is kept after the laptop refused its connection."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A client that is the app's: its transport, what it has sent, and how it was greeted, if it was."""

    transport: asyncio.Transport
    data: bytes
    greeting: Greeting | None = None


@dataclass(frozen=True, slots=True)
class Checks:
    """What tells a probe: by first bytes, and by the first request of HTTP/2, None where that cannot be a probe's."""

    by_bytes: Callable[[bytes], Verdict]
    by_request: Callable[[Iterable[tuple[bytes, bytes]]], bool] | None = None


class FirstBytes(asyncio.Protocol):
    """Stands in for `bridge`, as the protocol of its transport and the sink of its `conn`, until somebody speaks.

    `on_settled` is called with None when the bridge takes over, else with a probe; the bridge never hears of its
    transport again then.
    """

    def __init__(self, bridge: Bridge, conn: Conn, checks: Checks, on_settled: Callable[[Probe | None], None]) -> None:
        self._bridge = bridge
        self._conn = conn
        self._checks = checks
        self._on_settled = on_settled
        self._transport: asyncio.Transport | None = None
        self._held = b""
        self._early: list[Buffer] = []  # of the laptop, while the client is greeted; bounded by the credit
        self._greeting: Greeting | None = None
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
        if self._greeting is None and self._checks.by_request is not None and speaks_http2(self._held + data):
            self._greet()
        if self._greeting is not None:
            self._listen(self._greeting, data)
            return
        data = self._held + data
        verdict = self._checks.by_bytes(data)
        if verdict is Verdict.UNFINISHED:
            self._held = data
        elif verdict is Verdict.PROBE and self._transport is not None:
            self._settle(Probe(self._transport, data))
        else:
            self._held = data
            self._join()

    def _greet(self) -> None:
        self._greeting = Greeting()
        if self._transport is not None:
            self._transport.write(OUR_SETTINGS)

    def _listen(self, greeting: Greeting, data: bytes) -> None:
        answer = greeting.feed(data)
        if answer and self._transport is not None:
            self._transport.write(answer)
        by_request = self._checks.by_request
        if greeting.fields is not None and by_request is not None and by_request(greeting.fields):
            if self._transport is not None:
                self._settle(Probe(self._transport, greeting.held, greeting))
        elif greeting.fields is not None or greeting.failed:
            self._join()

    @property
    def greeted(self) -> bool:
        """Whether we have spoken HTTP/2 with the client."""
        return self._greeting is not None

    def eof_received(self) -> bool:
        """The client has nothing to say, or no more than what is held."""
        if self._refused is not None:
            self._bridge.eof_received()  # it has to know before it hears of the refusal
            self._join()
            return True
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
        if self._greeting is None and self._checks.by_request is not None and not self._held and are_settings(data):
            self._greet()
        if self._greeting is not None or self._spoken():
            self._early.append(data)
            return
        self._join()
        self._bridge.conn_data(data)

    def _spoken(self) -> bool:
        """Whether the client has spoken first, only that nobody has read it yet."""
        if self._held or self._transport is None or self._transport.is_closing():
            return False
        try:
            return waiting(self._transport.get_extra_info("socket")) > 0
        except OSError:
            return False  # it has just gone

    def conn_eof(self) -> None:
        """The laptop has nothing to say."""
        self._join()
        self._conn.sink.conn_eof()

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
        greeting = self._greeting
        if greeting is not None:
            held = greeting.held
        if self._refused is not None and held:
            self._bridge.data_received(held)
            held = b""
        self._settle(None)
        if held:
            self._bridge.data_received(held)
        for data in self._early:
            self._conn.sink.conn_data(data)

    def _settle(self, probe: Probe | None) -> None:
        if self._settled:
            return
        self._settled = True
        if self._timer is not None:
            self._timer.cancel()
        self._on_settled(probe)
        if probe is not None:
            for data in self._early:
                self._conn.consumed(len(data))
            return
        if self._greeting is not None and self._refused is None:
            Greeted(self._bridge, self._transport, self._conn, self._greeting)
            return
        self._conn.sink = self._bridge
        if self._transport is not None:
            self._transport.set_protocol(self._bridge)
        if self._refused is not None:
            self._bridge.conn_reset(*self._refused)
