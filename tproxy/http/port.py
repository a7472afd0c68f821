"""What the routers of `tproxy.http` and whoever carries their bytes are to each other. Sans-IO: nothing here waits.

    client ──events──► Router ──calls──► Hop ──► client, app, laptops
           app, laptops ──events──► Router

A router is told what happens (`Router`) and calls what should be done (`Hop`, `End`). Calls return at once. A call
leads to no event before the router's method has returned, save for one: `client_pause` and `upstream_pause` may come
from inside a `write`.

The *default* upstream is where everything goes that no personal intercept is for: the app, or the laptop of a global
intercept. It is opened as soon as the client is there, so that servers which speak first do.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from tproxy.model.figures import Outcome
from tproxy.model.flow import ResetReason
from tproxy.model.intercept import OnDisconnect

Buffer = bytes | memoryview
"""Bytes that nobody will change."""

Field = tuple[bytes, bytes]
"""A header field: name in lower case, value without surrounding blanks."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Where a matching request goes: to the laptop of `intercept` (UID).

    `name` is the intercept's namespace and name, `host` the laptop's own name; both are for people. `checks`: it gets
    matching health checks as well, which are the app's otherwise.
    """

    intercept: str
    session: str = ""
    name: str = ""
    host: str = ""
    on_disconnect: OnDisconnect = "fallback"
    fallback_when_refused: bool = False
    checks: bool = False


APP = Choice("")
"""The app itself, where that is not the default upstream: a health check on a port with a global intercept."""


class Matcher(Protocol):
    """Decides requests. What it knows never changes: other intercepts mean another matcher."""

    @property
    def names(self) -> frozenset[bytes]:
        """The header fields it may look at, in lower case. Others need not be told to `pick`."""
        ...

    @property
    def telling(self) -> frozenset[bytes] | None:
        """A request without any of these fields goes to the default upstream, whatever else it is; None: who knows."""
        ...

    def pick(self, method: bytes, target: bytes, fields: Iterable[Field]) -> Choice | None:
        """Where a request goes; None means the default upstream. `target` is the request's, in any of its forms."""
        ...


class End(Protocol):
    """One connection, as a router uses it. On one that is gone, calls do nothing."""

    def write(self, data: Buffer) -> None:
        """Send bytes. When too many wait to be sent the router hears of it (`client_pause`, `upstream_pause`)."""
        ...

    def write_eof(self) -> None:
        """Send no more after what was written; the opposite direction stays open."""
        ...

    def close(self) -> None:
        """Both directions are finished after what was written. Nothing is heard of it again, nor its `lost`."""
        ...

    def reset(self) -> None:
        """End it at once, so that the other end sees a reset. Nothing is heard of it again, nor its `lost`."""
        ...

    def pause(self) -> None:
        """Read no more for now. What has been read already may still be told."""
        ...

    def resume(self) -> None:
        """Go on reading."""
        ...


class Upstream(End, Protocol):
    """A connection to the app or to a laptop."""

    @property
    def reused(self) -> bool:
        """It has carried other requests, so its far end may be about to close it."""
        ...

    def release(self) -> None:
        """Its exchange is over and it can carry another: somebody else may have it. Nothing is heard of it again."""
        ...


class Hop(Protocol):
    """One client's connection and what is behind it."""

    @property
    def client(self) -> End: ...

    @property
    def default(self) -> Upstream:
        """The default upstream; writing to it before it is connected is fine."""
        ...

    @property
    def matcher(self) -> Matcher:
        """As of now: ask for it at each request."""
        ...

    def now(self) -> float:
        """Seconds, monotonic."""
        ...

    def open(self, choice: Choice, fresh: bool = False) -> Upstream | None:
        """A connection to a laptop, which may be written to at once; None if there is no way to it now.

        It belongs to this router until it is released, closed, reset or lost. A `fresh` one has carried nothing yet.
        """
        ...

    def reopen(self) -> Upstream:
        """Replace a default upstream that is lost, or was reset; becomes `default`."""
        ...

    def stand_in(self, reason: ResetReason, detail: str) -> "Upstream | bytes | None":
        """A default upstream that is lost was a laptop: another one, told what the laptop was asked and did not answer.

        It becomes `default`. Bytes: there can be none, and this is what the client shall be told. None: nothing can be
        done.
        """
        ...

    def splice(self, upstream: Upstream) -> None:
        """Join the client with `upstream` for good, and reset all others: the router hears nothing more.

        For bytes that nobody needs to look at, which cost least this way.
        """
        ...

    def become(self, router: "Router") -> None:
        """Tell everything to `router` from the next event on."""
        ...

    def wake(self, seconds: float | None) -> None:
        """Call `Router.timeout` after so long, instead of what was asked for before; None: not at all."""
        ...

    def held(self, size: int) -> bool:
        """The router holds back so many bytes of the client's now. False: everybody's are too many, so pass them on."""
        ...

    def record(self, outcome: Outcome, choice: Choice | None, status: int, seconds: float) -> None:
        """A request has been dealt with: its final status (0: none), and the time from its head to its answer's end."""
        ...


class Router(Protocol):
    """One client connection's traffic, from the event on with which it takes over."""

    def client_data(self, data: bytes) -> None: ...

    def client_eof(self) -> None:
        """The client sends no more; it may still be listening."""
        ...

    def client_lost(self) -> None:
        """The client is gone: reset or close every upstream."""
        ...

    def client_pause(self) -> None:
        """The client reads slowly: make the upstreams wait."""
        ...

    def client_resume(self) -> None: ...

    def upstream_data(self, upstream: Upstream, data: Buffer) -> None: ...

    def upstream_eof(self, upstream: Upstream) -> None: ...

    def upstream_lost(self, upstream: Upstream, reason: ResetReason, detail: str) -> None:
        """Refused, reset, or gone with the tunnel. `detail` is for people, who get to see it."""
        ...

    def upstream_pause(self, upstream: Upstream) -> None:
        """It takes no more for now."""
        ...

    def upstream_resume(self, upstream: Upstream) -> None: ...

    def timeout(self) -> None:
        """The time asked for with `Hop.wake` is over."""
        ...

    def drain(self) -> None:
        """The port's intercepts have ended: end the connection, in order, as soon as its protocol allows it."""
        ...


Http2Maker = Callable[[Hop, bytes, bool], Router]
"""Makes the router of a connection that speaks HTTP/2; then its events are told, the client's preface first.

The bytes are what the default upstream has said already and the client has not been told: its SETTINGS, perhaps. True:
the client's connection was upgraded by the default upstream's 101 (RFC 7540, 3.2), so that stream 1 is the upgrade
request, half-closed by the client, which the default upstream is about to answer. That the default upstream could not
be reached is told as `upstream_lost` before anything else.
"""
