"""What `why` is told of a pod and its port before it says anything."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tproxy.steer.port import SteeredPort
from tproxy.steer.sock_diag import Listening
from tproxy_node.debug.seen import Seen


@dataclass(frozen=True, slots=True)
class Candidate:
    """An intercept that wants something of the pod. `trouble` says why it has not got it, with its reason's word."""

    name: str  # namespace/name
    whose: str  # user@host
    session: str
    ports: tuple[SteeredPort, ...]
    match: str
    state: str
    reason: str = ""
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Tunnel:
    """The streams of a session: figures of the best one, or how the last one was lost. Times in seconds."""

    streams: int
    quiet: float = 0.0
    oldest: float = 0.0
    queued: int = 0
    rtt: float = 0.0
    waiting: int = 0
    lost: str = ""
    lost_ago: float = 0.0


@dataclass(frozen=True, slots=True)
class Tried:
    """What the local app did when a connection was opened just now: `accepted`, or a reason for a reset."""

    outcome: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found.

    `unsteered` says why the pod is not steered although it should be. `chosen` is the intercept that a request as
    described goes to, None for the app. `from_node`, `checker`: the connection comes from one of the node's addresses;
    the request is what a health check sends. `older`: connections from before. `overflowed`: accept queues of the pod
    dropped connections during the last moments, or `overflows` of them ever.
    """

    pod: str
    node: str
    port: SteeredPort
    candidates: Sequence[Candidate] = ()
    seen: Seen | None = None
    unsteered: str = ""
    cookies: frozenset[int] = frozenset()
    full: bool = False
    session_full: bool = False
    personal: bool = False
    asked: str = ""
    chosen: Candidate | None = None
    matching: Sequence[Candidate] = ()  # all that such a request matches
    tunnel: Tunnel | None = None
    tried: Tried | None = None
    failures: int = 0
    failure: str = ""
    source: str = ""
    from_node: bool = False
    checker: bool = False
    probes: str = "app"
    older: int = 0
    sends: Sequence[str] = ()  # Services that send to the port
    others: Sequence[str] = field(default_factory=tuple)  # what Services send to instead

    @property
    def wanting(self) -> list[Candidate]:
        """Intercepts of this port."""
        return [one for one in self.candidates if self.port in one.ports]

    @property
    def apps(self) -> list[Listening]:
        """The app's listeners."""
        return self.seen.apps(self.port.port, self.cookies) if self.seen is not None else []
