"""Sessions as this node knows them: who may open a stream, the streams there are, and which Session has expired."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from tproxy.errors import DeniedError, TproxyError
from tproxy.kube.errors import NotFoundError
from tproxy.kube.port import SESSIONS, Cluster
from tproxy.model.session import ExpiryTracker, Session, token_matches
from tproxy.tasks import Tasks
from tproxy.tunnel.endpoint import Endpoint
from tproxy.tunnel.hello import Hello
from tproxy_node.opening import Identity, Openings

log = logging.getLogger(__name__)

ARRIVAL_SECONDS = 2.0
"""How long a hello waits for the watch to deliver its just-created Session."""

EXPIRY_PERIOD_SECONDS = 15.0

SUSPICIOUS_SECONDS = 3.0
"""A live stream is heard every two seconds; one that is quiet for longer is used only if there is no other."""

MAX_GONE = 256
"""Sessions that have ended and are remembered for `tproxy node flows`."""

MAX_STREAMS = 8
"""Streams of one session on this node; a further one replaces the oldest."""


@dataclass(frozen=True, slots=True)
class Lost:
    """A stream that ended, when (monotonic seconds), and why."""

    at: float
    reason: str


@dataclass(slots=True)
class _Known:
    session: Session
    streams: list[Endpoint] = field(default_factory=list)
    lost: "Lost | None" = None


class Sessions:
    """Keeps streams only for Sessions that exist. `on_change` is called when a session gains or loses its streams;
    `openings` serves what laptops open, without it nothing is."""

    def __init__(
        self,
        cluster: Cluster,
        on_change: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        openings: Openings | None = None,
    ) -> None:
        self._cluster = cluster
        self._openings = openings or Openings()
        self._on_change = on_change
        self._clock = clock
        self._known: dict[tuple[str, str], _Known] = {}
        self._by_uid: dict[str, _Known] = {}
        self._expiry = ExpiryTracker()
        self._arrived = asyncio.Event()
        self._tasks = Tasks("sessions")
        self._carried = (0, 0)  # by streams that are closed
        self._gone: dict[str, Session] = {}

    def start(self) -> None:
        """Begin to look for expired Sessions."""
        self._tasks.start(self._expire(), "expiry")

    async def close(self) -> None:
        """Close every stream."""
        for known in list(self._known.values()):
            self._close_streams(known, "the node daemon stops")
        await self._tasks.close()

    def applied(self, session: Session) -> None:
        """A Session exists and looks like this. Under a known name with another UID it is another Session."""
        key = (session.namespace, session.name)
        known = self._known.get(key)
        if known is not None and known.session.uid != session.uid:
            self.removed(known.session)
            known = None
        if known is None:
            self._known[key] = self._by_uid[session.uid] = _Known(session)
        else:
            known.session = session
        self._expiry.observe(session, self._clock())
        self._arrived.set()
        self._arrived = asyncio.Event()

    def removed(self, session: Session) -> None:
        """A Session is gone, and with it the right to its streams."""
        key = (session.namespace, session.name)
        known = self._known.get(key)
        if known is None or known.session.uid != session.uid:
            return
        del self._known[key], self._by_uid[session.uid]
        self._gone[session.uid] = known.session
        while len(self._gone) > MAX_GONE:
            del self._gone[next(iter(self._gone))]
        self._expiry.forget(session.uid)
        self._close_streams(known, "the session was deleted")

    def all(self) -> list[Session]:
        """Every Session that exists."""
        return [known.session for known in self._known.values()]

    def live(self) -> frozenset[str]:
        """UIDs of Sessions with a stream here."""
        return frozenset(uid for uid, known in self._by_uid.items() if any(s.alive for s in known.streams))

    def carried(self) -> tuple[int, int]:
        """Bytes received and sent by all streams since the start."""
        received, sent = self._carried
        for stream in self.streams():
            stats = stream.stats
            received, sent = received + stats.bytes_in, sent + stats.bytes_out
        return received, sent

    def streams(self) -> list[Endpoint]:
        """Every open stream."""
        return [stream for known in self._known.values() for stream in known.streams if stream.alive]

    def of(self, uid: str) -> Session | None:
        """The Session, also if it has ended not long ago."""
        known = self._by_uid.get(uid)
        return known.session if known is not None else self._gone.get(uid)

    def lost(self, uid: str) -> Lost | None:
        """The Session's stream that ended last, if one has."""
        known = self._by_uid.get(uid)
        return known.lost if known is not None else None

    def by_session(self) -> list[tuple[Session, list[Endpoint]]]:
        """Every Session with its open streams."""
        return [(known.session, [s for s in known.streams if s.alive]) for known in self._by_uid.values()]

    def pick(self, uid: str) -> Endpoint | None:
        """The stream of a Session that carries the fewest connections, or None if it has none."""
        known = self._by_uid.get(uid)
        if known is None:
            return None
        alive = [stream for stream in known.streams if stream.alive]
        if len(alive) == 1:
            return alive[0]
        # After a reconnect the older one may be dead without having been found out yet.
        return min(reversed(alive), key=_load, default=None)

    async def authenticate(self, hello: Hello) -> Identity:
        """Find the Session that `hello` proves to own. Raises `DeniedError`, the same for every reason."""
        deadline = self._clock() + ARRIVAL_SECONDS
        while True:
            arrived = self._arrived
            known = self._known.get((hello.namespace, hello.session))
            if known is not None and token_matches(known.session, hello.token):
                session = known.session
                return Identity(session.uid, f"{session.namespace}/{session.name}", session.user, session.namespace)
            try:
                async with asyncio.timeout(deadline - self._clock()):
                    await arrived.wait()
            except TimeoutError:
                raise DeniedError("unknown session, or not its token") from None

    def add(self, identity: Identity, stream: Endpoint) -> None:
        """Take over an authenticated stream."""
        known = self._by_uid.get(identity.uid)
        if known is None:
            stream.close("the session was deleted")
            return
        stream.on_open = partial(self._openings.open, identity)
        known.streams.append(stream)
        if len(known.streams) > MAX_STREAMS:
            known.streams[0].close("replaced by a newer stream of this session")
        log.info("stream opened", extra={"session": identity.name, "user": identity.user})
        self._tasks.start(self._watch_over(identity, known, stream), "stream")
        self._on_change()

    async def _watch_over(self, identity: Identity, known: _Known, stream: Endpoint) -> None:
        reason = await stream.wait_closed()
        stats = stream.stats
        self._carried = (self._carried[0] + stats.bytes_in, self._carried[1] + stats.bytes_out)
        if stream in known.streams:
            known.streams.remove(stream)
        known.lost = Lost(self._clock(), reason)
        log.info("stream closed", extra={"session": identity.name, "reason": reason})
        self._on_change()

    def _close_streams(self, known: _Known, reason: str) -> None:
        for stream in known.streams:
            stream.close(reason)
        known.streams.clear()
        self._on_change()

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(EXPIRY_PERIOD_SECONDS)
            await self.delete_expired()

    async def delete_expired(self) -> None:
        """Delete the Sessions that nobody has renewed for their ttl."""
        for session in self._expiry.expired(self._clock()):
            extra = {"session": f"{session.namespace}/{session.name}"}
            try:
                # This node may have been cut off from renewals: only what the API server says now counts.
                current = Session.from_object(await self._cluster.get(SESSIONS, session.name, session.namespace))
                if current.uid == session.uid and current.renew_time == session.renew_time:
                    await self._cluster.delete(SESSIONS, session.name, session.namespace, uid=session.uid)
                    log.info("session expired", extra=extra)
                    self.removed(session)
                elif current.uid == session.uid:
                    self._expiry.observe(current, self._clock())
                else:
                    self._expiry.forget(session.uid)
            except NotFoundError:
                self.removed(session)
            except TproxyError as error:
                log.warning("cannot delete an expired session: %s", error, extra=extra)


def _load(stream: Endpoint) -> tuple[bool, int]:
    stats = stream.stats
    return stats.quiet > SUSPICIOUS_SECONDS, stats.connections
