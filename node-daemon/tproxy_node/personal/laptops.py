"""Connections to laptops: through the tunnel, one exchange after the other, kept for the next one for a moment.

They are shared by what comes from the same client to the same port, so that one laptop's app sees no more connections
than that client would have made.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tproxy.http.port import Buffer
from tproxy.http.unanswered import Unanswered
from tproxy.model.flow import OpenRequest, ResetReason
from tproxy.tunnel.conn import Conn
from tproxy.tunnel.endpoint import Endpoint

if TYPE_CHECKING:
    from tproxy_node.personal.hop import ClientHop

IDLE_SECONDS = 1.5
"""Less than servers keep idle connections, so that a request seldom meets one that is about to be closed."""

MAX_IDLE = 512
"""Idle connections kept of a kind."""

CLOSE_SECONDS = 5.0
"""What a local app gets to close its end."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Connections of one kind are as good as each other."""

    stream: int  # id() of the endpoint, which lives as long as its connections
    intercept: str
    port: int
    client: str


class LaptopEnd:
    """An `Upstream` through the tunnel; `on_over` is called once, when it counts no more. `leaving`: it has notice."""

    write: Callable[[Buffer], None]

    def __init__(
        self, intercept: str, port: int, kind: Kind | None, pool: "LaptopPool", on_over: Callable[["LaptopEnd"], None]
    ) -> None:
        self.intercept = intercept
        self.port = port
        self.session = ""
        self.kind = kind
        self.leaving = False
        self.reused = False
        self.eof = False
        self.unanswered: Unanswered | None = None
        self.idle_since = 0.0
        self._pool = pool
        self._on_over = on_over
        self._over = False
        self._hop: ClientHop | None = None
        self._paused = False
        self._unconsumed = 0

    def open(self, stream: Endpoint, request: OpenRequest) -> None:
        """Begin."""
        self._conn: Conn = stream.open(request, self)
        self.write = self._conn.write
        self.write_eof = self._conn.write_eof

    def follow(self) -> None:
        """Know from now on what it was asked and has not answered (`unanswered`)."""
        followed = self.unanswered = Unanswered()
        write = self.write

        def asked(data: Buffer) -> None:
            followed.asked(bytes(data))
            if followed.lost:
                self.unanswered = None
                self.write = write
            write(data)

        self.write = asked

    def use(self, hop: "ClientHop") -> None:
        """It is for this client now."""
        self._hop = hop
        self._paused = False

    # As the sink of its connection

    def conn_opened(self) -> None:
        """The local app is there; nobody has waited for that."""

    def conn_data(self, data: Buffer) -> None:
        """The local app speaks."""
        if self._hop is None:
            self.close()  # out of turn
            return
        if self.unanswered is not None:
            self.unanswered.answered(data)
        self._unconsumed += len(data)
        self._hop.router.upstream_data(self, data)
        if not self._paused:
            self._consumed()

    def conn_eof(self) -> None:
        """The local app sends no more."""
        self.eof = True
        if self._hop is None:
            self.close()
        else:
            self._hop.router.upstream_eof(self)

    def conn_reset(self, reason: ResetReason, detail: str) -> None:
        """The local app, or the laptop, is gone."""
        if self._over:
            return
        hop = self._hop
        self._end()
        if hop is not None:
            hop.router.upstream_lost(self, reason, detail)

    def conn_pause(self) -> None:
        """The tunnel is full."""
        if self._hop is not None:
            self._hop.router.upstream_pause(self)

    def conn_resume(self) -> None:
        """The tunnel takes more."""
        if self._hop is not None:
            self._hop.router.upstream_resume(self)

    # As an `Upstream`

    def release(self) -> None:
        """See `Upstream`."""
        if self._over:
            return
        self._hop = None
        self.reused = True
        self._consumed()
        if self.eof or self.leaving or not self._pool.keep(self):
            self.close()

    def close(self) -> None:
        """See `End`."""
        if self._over:
            return
        self._end()
        conn = self._conn
        conn.write_eof()
        if not conn.closed:
            conn.sink = _Ending(conn)
            asyncio.get_running_loop().call_later(CLOSE_SECONDS, conn.reset)

    def reset(self) -> None:
        """See `End`."""
        if not self._over:
            self._end()
            self._conn.reset(ResetReason.RESET, "the client is gone")

    def leave(self, seconds: float) -> None:
        """Its intercept has been left: it ends with its exchange, or after so long."""
        self.leaving = True
        if self._hop is None:
            asyncio.get_running_loop().call_soon(self.close)
        else:
            asyncio.get_running_loop().call_later(seconds, self._expire)

    def _expire(self) -> None:
        hop = self._hop
        if self._over or hop is None:
            return
        self._end()
        self._conn.reset(ResetReason.RESET, "the intercept has ended")
        hop.router.upstream_lost(self, ResetReason.TUNNEL_LOST, "the intercept has ended")

    def pause(self) -> None:
        """See `End`: the far end gets no more credit."""
        self._paused = True

    def resume(self) -> None:
        """See `End`."""
        self._paused = False
        self._consumed()

    def _consumed(self) -> None:
        size, self._unconsumed = self._unconsumed, 0
        self._conn.consumed(size)

    def _end(self) -> None:
        self._over = True
        self._hop = None
        self._pool.drop(self)
        self._consumed()
        self._on_over(self)


class _Ending:
    """The sink of a connection that we have finished with: what still comes is dropped."""

    def __init__(self, conn: Conn) -> None:
        self._conn = conn

    def conn_opened(self) -> None: ...

    def conn_data(self, data: Buffer) -> None:
        self._conn.consumed(len(data))

    def conn_eof(self) -> None: ...

    def conn_reset(self, reason: ResetReason, detail: str) -> None: ...

    def conn_pause(self) -> None: ...

    def conn_resume(self) -> None: ...


class LaptopPool:
    """Idle connections."""

    def __init__(self) -> None:
        self._idle: dict[Kind, list[LaptopEnd]] = {}
        self._sweep: asyncio.TimerHandle | None = None

    def take(self, kind: Kind) -> LaptopEnd | None:
        """The one that was used last, if there is any."""
        ends = self._idle.get(kind)
        if not ends:
            return None
        end = ends.pop()
        if not ends:
            del self._idle[kind]
        return end

    def keep(self, end: LaptopEnd) -> bool:
        """Keep it for the next one; false if it should be closed instead."""
        if end.kind is None:
            return False
        ends = self._idle.setdefault(end.kind, [])
        if len(ends) >= MAX_IDLE:
            return False
        loop = asyncio.get_running_loop()
        end.idle_since = loop.time()
        ends.append(end)
        if self._sweep is None:
            self._sweep = loop.call_later(IDLE_SECONDS, self._clean)
        return True

    def drop(self, end: LaptopEnd) -> None:
        """It is over."""
        ends = self._idle.get(end.kind) if end.kind is not None else None
        if ends and end.kind is not None and end in ends:
            ends.remove(end)
            if not ends:
                del self._idle[end.kind]

    def _clean(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweep = None
        old = loop.time() - IDLE_SECONDS
        for end in [end for ends in self._idle.values() for end in ends if end.idle_since <= old]:
            end.close()
        if self._idle:
            self._sweep = loop.call_later(IDLE_SECONDS / 2, self._clean)

    def close(self) -> None:
        """Keep none. Idempotent."""
        for end in [end for ends in self._idle.values() for end in ends]:
            end.close()
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
