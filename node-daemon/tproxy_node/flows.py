"""Who has been connected with whom, and why: connections that are open now, and those that ended last.

What the hot path pays is an object when a connection begins and one question to the kernel when it ends: how many bytes
went which way. Where very many end, most are not asked. While a connection lasts nobody counts anything; whoever asks
gets the kernel's figures of that moment.

`decision` is where a connection went, `reason` why:

    laptop     intercept   a global intercept has the port
               existing    the app had it, from before the intercept
    by-request personal    each request is decided on its own (`Request`)
    app        probe       a health check
               left        the intercept ended meanwhile
               limit       its session has as many connections as it may have
               no_tunnel   its session has no stream
"""

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol

from tproxy.model.figures import Outcome
from tproxy.model.flow import Address
from tproxy.steer.tcp_info import Carried
from tproxy_node.plan import PodRef

if TYPE_CHECKING:
    from tproxy.http.port import Choice
    from tproxy.tunnel.conn import Conn
    from tproxy.tunnel.endpoint import Endpoint

KEPT = 4096
"""Ended connections that are remembered, and requests."""

ASKED_PER_SECOND = 500
"""Connections that the kernel is asked about when they end; of those beyond it the bytes remain unknown."""

FOLLOWED = 1024
"""Events that wait for a slow follower; what does not fit is counted."""


class _Named(Protocol):
    """A route."""

    @property
    def intercept(self) -> str: ...
    @property
    def session(self) -> str: ...
    @property
    def name(self) -> str: ...


class Flow:
    """One connection of a client, or one UDP flow. Times are `time.monotonic`; `ended` is 0.0 while it lasts."""

    __slots__ = (
        "_said",
        "began",
        "client",
        "conn",
        "decision",
        "destination",
        "end",
        "ended",
        "flows",
        "intercept",
        "name",
        "number",
        "pod",
        "protocol",
        "reason",
        "session",
        "stream",
        "transport",
    )

    def __init__(
        self,
        flows: "Flows",
        number: int,
        pod: PodRef,
        client: Address,
        destination: Address,
        decision: str,
        reason: str,
        route: _Named | None,
        transport: asyncio.Transport | None,
        protocol: str,
    ) -> None:
        self.flows = flows
        self.number = number
        self.pod = pod
        self.client = client
        self.destination = destination
        self.decision = decision
        self.reason = reason
        self.intercept, self.session, self.name = (route.intercept, route.session, route.name) if route else ("",) * 3
        self.transport = transport
        self.protocol = protocol
        self.began = time.monotonic()
        self.ended = 0.0
        self.end = ""
        self._said = b""  # by the kernel, when it ended
        self.conn: Conn | None = None  # its other half, in the tunnel
        self.stream: Endpoint | None = None  # which is in this one

    def measure(self) -> Carried | None:
        """What the kernel says of its client's connection, now or when it ended; None if it says nothing."""
        said = self._said or self._ask()
        return Carried.parse(said) if said else None

    def _ask(self) -> bytes:
        try:
            return b"" if self.transport is None else Carried.ask(self.transport.get_extra_info("socket"))
        except (OSError, AttributeError):
            return b""  # closed this very moment

    def over(self, end: str = "") -> None:
        """It has ended, as `end` says unless something has been said before. Idempotent."""
        if not self.ended:
            self.ended = now = time.monotonic()
            if self.flows.may_ask(now):
                self._said = self._ask()
            self.transport = self.conn = self.stream = None
            self.end = self.end or end
            self.flows.ended(self)

    def moved(self) -> None:
        """It goes on as another one: this one has never been."""
        self.flows.live.discard(self)
        self.transport = self.conn = self.stream = None
        self.ended = self.ended or time.monotonic()


class Request(NamedTuple):
    """One request on a port with personal intercepts, answered `at`; `choice` None: it was nobody's."""

    flow: Flow
    outcome: Outcome
    choice: "Choice | None"
    status: int
    seconds: float
    at: float


_Bare = tuple[Flow, Outcome, "Choice | None", int, float, float]
"""A `Request` as long as nobody asks for it: there are very many, and this takes a tenth of the time."""

Event = Flow | Request


class Follower:
    """Gets what happens from now on, until `close`."""

    def __init__(self, on_close: Callable[["Follower"], None]) -> None:
        self.lost = 0
        self._on_close = on_close
        self._events: asyncio.Queue[tuple[str, Event]] = asyncio.Queue(FOLLOWED)

    def put(self, what: str, event: Event) -> None:
        """One more, if there is room."""
        try:
            self._events.put_nowait((what, event))
        except asyncio.QueueFull:
            self.lost += 1

    async def next(self) -> tuple[str, Event]:
        """`began`, `ended` or `request`, and what."""
        return await self._events.get()

    def take(self) -> tuple[str, Event] | None:
        """The same without waiting; None if nothing has happened."""
        try:
            return self._events.get_nowait()
        except asyncio.QueueEmpty:
            return None

    def close(self) -> None:
        """Enough. Idempotent."""
        self._on_close(self)


class Flows:
    """Those of the node."""

    def __init__(self) -> None:
        self.live: set[Flow] = set()
        self.recent: deque[Flow] = deque(maxlen=KEPT)
        self._requests: deque[_Bare] = deque(maxlen=KEPT)
        self._number = 0
        self._second = 0.0  # when the next begins
        self._asks = 0  # left in this one
        self._followers: set[Follower] = set()

    def begin(
        self,
        pod: PodRef,
        client: Address,
        destination: Address,
        decision: str,
        reason: str,
        route: _Named | None = None,
        transport: asyncio.Transport | None = None,
        protocol: str = "TCP",
    ) -> Flow:
        """A connection has begun. `route` is None where it belongs to nobody's intercept."""
        self._number += 1
        flow = Flow(self, self._number, pod, client, destination, decision, reason, route, transport, protocol)
        self.live.add(flow)
        for follower in self._followers:
            follower.put("began", flow)
        return flow

    def may_ask(self, now: float) -> bool:
        """Whether one more may be asked about; counts it."""
        if now >= self._second:
            self._second, self._asks = now + 1, ASKED_PER_SECOND
        self._asks -= 1
        return self._asks >= 0

    def ended(self, flow: Flow) -> None:
        """See `Flow.over`."""
        self.live.discard(flow)
        self.recent.append(flow)
        for follower in self._followers:
            follower.put("ended", flow)

    def request(self, flow: Flow, outcome: Outcome, choice: "Choice | None", status: int, seconds: float) -> None:
        """A request is over."""
        bare = (flow, outcome, choice, status, seconds, time.monotonic())
        self._requests.append(bare)
        if self._followers:
            request = Request(*bare)
            for follower in self._followers:
                follower.put("request", request)

    @property
    def requests(self) -> Iterator[Request]:
        """The last ones."""
        return itertools.starmap(Request, self._requests)

    def follow(self) -> Follower:
        """For the caller to close."""
        follower = Follower(self._followers.discard)
        self._followers.add(follower)
        return follower

    def latest(self, pod: str, port: int) -> Iterator[Flow]:
        """Ended ones of a pod's port, by UID of the pod, the latest first."""
        return (flow for flow in reversed(self.recent) if flow.pod.uid == pod and flow.destination.port == port)
