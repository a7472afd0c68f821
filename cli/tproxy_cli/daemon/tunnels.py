"""The tunnels of one session: a stream to the node daemon of every node that has pods of its intercepts.

want(node) ──▶ connecting ──▶ connected ──▶ lost ──▶ connecting …     with back-off and jitter
                    ▲                                    │
                    └──────── wake() skips the wait ─────┘
not wanted for a while ──▶ closed

On a long link a node gets several streams, each by a port-forward of its own: what is between the laptop and the API
server often has a window of 64 KiB for each, which at 50 ms is 1 MB/s. A connection stays on its stream; a new one goes
to the stream that carries the fewest.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from tproxy.errors import DeniedError, InvalidError, TproxyError
from tproxy.rpc.client import IncompatibleError
from tproxy.rpc.reach import UnreachableError
from tproxy.tasks import Tasks
from tproxy.tunnel.endpoint import Endpoint

log = logging.getLogger(__name__)

FIRST_DELAY_SECONDS = 0.1
LONGEST_DELAY_SECONDS = 3.0
"""Steering is to be back within 5 s of the API server."""

STABLE_SECONDS = 5.0
"""A tunnel that lived this long was a good one: the back-off begins anew."""

LINGER_SECONDS = 60.0
"""How long a tunnel outlives the last pod on its node: a rollout often comes back."""

STREAMS = 4
"""To one node, on a long link."""

LONG_SECONDS = 0.02
"""A round trip that makes a link long. Shorter ones lose more by batches that are smaller than by windows."""

LOOKS = 5
LOOK_SECONDS = 2.0
"""A link is long if so many looks in a row, which are as far apart as pings, find it so: load makes round trips too."""

_HOPELESS = (DeniedError, IncompatibleError, InvalidError, UnreachableError)

State = Literal["connecting", "connected", "lost"]


class Link(Protocol):
    """An open tunnel and whatever carries it."""

    endpoint: Endpoint
    address: str
    """Where it leads without the API server; empty for a port-forward."""

    async def close(self) -> None:
        """Release what carries the tunnel; the endpoint is closed already."""


Dial = Callable[[str], Awaitable[Link]]
"""Opens the tunnel to a node, by its name. Raises TproxyError."""


class Backoff:
    """How long to wait before the next attempt: doubling, capped, with jitter so that laptops don't march in step."""

    def __init__(
        self, longest: float = LONGEST_DELAY_SECONDS, pick: Callable[[float, float], float] = random.uniform
    ) -> None:
        self._longest = longest
        self._pick = pick
        self._delay = FIRST_DELAY_SECONDS

    def next(self) -> float:
        """Seconds to wait now."""
        delay = self._pick(self._delay / 2, self._delay)
        self._delay = min(self._delay * 2, self._longest)
        return delay

    def reset(self) -> None:
        """Begin anew."""
        self._delay = FIRST_DELAY_SECONDS


@dataclass(frozen=True, slots=True)
class TunnelView:
    """A tunnel as others may know it.

    `endpoints` are its streams that stand; `address` is where it leads directly, empty for a port-forward.

    `since` is wall-clock time of the last change of state, `error` why there is no tunnel, `hopeless` the error if
    somebody has to do something before there can be one.
    """

    node: str
    state: State
    since: float
    error: str
    hopeless: TproxyError | None
    endpoints: tuple[Endpoint, ...]
    address: str = ""

    @property
    def endpoint(self) -> Endpoint | None:
        """For something new: the stream with the fewest connections."""
        return min(self.endpoints, key=lambda endpoint: endpoint.stats.connections, default=None)


class _Stream:
    """Keeps one stream to a node open until `close`."""

    def __init__(self, node: str, dial: Dial, on_change: Callable[[], None]) -> None:
        self.node = node
        self._dial = dial
        self._on_change = on_change
        self._state: State = "connecting"
        self._since = time.time()
        self._error = ""
        self._hopeless: TproxyError | None = None
        self._endpoint: Endpoint | None = None
        self._address = ""
        self._tasks = Tasks("tunnels")
        self._runner = self._tasks.start(self._run(), node)

    @property
    def view(self) -> TunnelView:
        """How it is now."""
        endpoints = () if self._endpoint is None else (self._endpoint,)
        return TunnelView(self.node, self._state, self._since, self._error, self._hopeless, endpoints, self._address)

    def wake(self) -> None:
        """Connect afresh at once."""
        self._runner.cancel()
        self._runner = self._tasks.start(self._run(), self.node)

    async def close(self) -> None:
        """End it in an orderly way: the node hears of it."""
        await self._tasks.close()

    async def _run(self) -> None:
        backoff = Backoff()
        while True:
            connected_at = None
            try:
                link = await self._dial(self.node)
                connected_at = time.monotonic()
                await self._serve(link)
            except TproxyError as error:
                if error.message != self._error:
                    log.warning("no tunnel: %s", error.message, extra={"node": self.node})
                self._set(self._state, error.message, error if isinstance(error, _HOPELESS) else None)
            except Exception as error:  # a defect in one attempt must not end the tunnel for good
                log.exception("no tunnel", extra={"node": self.node})
                self._set(self._state, f"internal error: {error}")
            if connected_at is not None and time.monotonic() - connected_at >= STABLE_SECONDS:
                backoff.reset()
            await asyncio.sleep(backoff.next())

    async def _serve(self, link: Link) -> None:
        """Hold an open tunnel until it ends."""
        reason = "closed by the laptop"
        try:
            self._endpoint, self._address = link.endpoint, link.address
            self._set("connected", "")
            log.info("tunnel connected", extra={"node": self.node})
            reason = await link.endpoint.wait_closed()
            log.warning("tunnel lost", extra={"node": self.node, "reason": reason})
        finally:
            self._endpoint, self._address = None, ""
            link.endpoint.close(reason)
            self._set("lost", reason)
            await link.close()

    def _set(self, state: State, error: str, hopeless: TproxyError | None = None) -> None:
        if state != self._state:
            self._since = time.time()
        self._state, self._error, self._hopeless = state, error, hopeless
        self._on_change()


class NodeTunnel:
    """The streams to one node, until `close`: one, or several if the link is long."""

    def __init__(self, node: str, dial: Dial, on_change: Callable[[], None]) -> None:
        self.wanted_at = time.monotonic()
        self._node = node
        self._dial = dial
        self._on_change = on_change
        self._first = _Stream(node, dial, on_change)
        self._more: list[_Stream] = []
        self._tasks = Tasks("tunnels")
        self._looking = self._tasks.start(self._look(), f"look at {node}")

    @property
    def view(self) -> TunnelView:
        """How it is now: as its first stream, but for that others may stand when that doesn't."""
        views = [stream.view for stream in (self._first, *self._more)]
        endpoints = tuple(endpoint for view in views for endpoint in view.endpoints if endpoint.alive)
        standing = [view for view in views if view.state == "connected"]
        return replace((standing or views)[0], endpoints=endpoints)

    def wake(self) -> None:
        """The laptop has slept: whatever was open is dead or about to be; connect afresh at once."""
        self._looking.cancel()
        more, self._more = self._more, []
        for stream in more:
            self._tasks.start(stream.close(), "close")
        self._first.wake()
        self._looking = self._tasks.start(self._look(), f"look at {self._node}")

    async def close(self) -> None:
        """End the streams in an orderly way: the node gives the pods back at once."""
        await self._tasks.close()
        await asyncio.gather(*(stream.close() for stream in (self._first, *self._more)))

    async def _look(self) -> None:
        """Find out whether the link is long, and open more streams then."""
        long = 0
        while long < LOOKS:
            await asyncio.sleep(LOOK_SECONDS)
            view = self._first.view
            by_forward = bool(view.endpoints) and not view.address
            long = long + 1 if by_forward and view.endpoints[0].stats.rtt >= LONG_SECONDS else 0
        log.info("a long link: more streams", extra={"node": self._node, "streams": STREAMS})
        self._more = [_Stream(self._node, self._dial, self._on_change) for _ in range(STREAMS - 1)]


class Tunnels:
    """The tunnels of one session, by node."""

    def __init__(self, dial: Dial, on_change: Callable[[], None]) -> None:
        self._dial = dial
        self._on_change = on_change
        self._nodes: dict[str, NodeTunnel] = {}
        self._closed = False

    def want(self, nodes: Iterable[str]) -> None:
        """These nodes have pods of ours now: connect to those without a tunnel. Does nothing once closed."""
        for node in () if self._closed else nodes:
            tunnel = self._nodes.get(node)
            if tunnel is None:
                self._nodes[node] = NodeTunnel(node, self._dial, self._on_change)
            else:
                tunnel.wanted_at = time.monotonic()

    async def drop_unwanted(self) -> None:
        """Close tunnels to nodes that nobody has wanted for a while."""
        limit = time.monotonic() - LINGER_SECONDS
        for node in [node for node, tunnel in self._nodes.items() if tunnel.wanted_at < limit]:
            log.info("tunnel no longer needed", extra={"node": node})
            await self._nodes.pop(node).close()

    def wake(self) -> None:
        """The laptop has slept."""
        for tunnel in self._nodes.values():
            tunnel.wake()

    def lightest(self, node: str) -> Endpoint | None:
        """The stream to `node` for something new."""
        tunnel = self._nodes.get(node)
        return tunnel.view.endpoint if tunnel is not None else None

    def views(self) -> list[TunnelView]:
        """Every tunnel, sorted by node."""
        return [self._nodes[node].view for node in sorted(self._nodes)]

    @property
    def connections(self) -> int:
        """Connections that go through the tunnels now."""
        return sum(endpoint.stats.connections for view in self.views() for endpoint in view.endpoints)

    async def close(self) -> None:
        """Close all, for good."""
        self._closed = True
        tunnels, self._nodes = list(self._nodes.values()), {}
        await asyncio.gather(*(tunnel.close() for tunnel in tunnels))
