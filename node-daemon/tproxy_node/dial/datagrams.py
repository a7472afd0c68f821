"""What carries more than UDP flows for a laptop: a text at once, and the way to the pod's resolvers."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tproxy.dns import wire
from tproxy.tasks import Tasks
from tproxy.tunnel.conn import Conn
from tproxy.tunnel.flow import EARLY_DATAGRAMS, Flow
from tproxy_node.dial.failure import DialError
from tproxy_node.dial.resolver import Resolver


class TextFlow(Flow):
    """Sends one text and ends."""

    def start(self, text: bytes) -> None:
        """Send it; with FIN the laptop knows that it is whole."""
        if self._over is not None:
            self._conn.accept()
            self._conn.write(text)
            self._conn.write_eof()


@dataclass(slots=True)
class Room:
    """How many queries are under way, of how many that may be."""

    limit: int
    used: int = 0


class DnsFlow(Flow):
    """DNS messages to the pod's resolvers, and their answers."""

    def __init__(self, conn: Conn, over: Callable[[], None], tasks: Tasks, room: "Room") -> None:
        """`room` is the session's."""
        super().__init__(conn, over)
        self._tasks = tasks
        self._room = room
        self._resolver: Resolver | None = None
        self._early: list[bytes] = []

    def start(self, resolver: Resolver) -> None:
        """Begin."""
        if self._over is None:
            return
        self._resolver = resolver
        self._conn.accept()
        early, self._early = self._early, []
        for message in early:
            self._datagram(message)

    def _datagram(self, payload: bytes) -> None:
        try:
            end = wire.question(payload).end
        except wire.MalformedError:
            return
        if not wire.is_query(payload):
            return
        if self._resolver is None:
            if len(self._early) < EARLY_DATAGRAMS:
                self._early.append(payload)
        elif self._room.used >= self._room.limit:
            self._conn.write_datagram(wire.answer_without_records(payload, wire.SERVFAIL))
        else:
            self._room.used += 1
            self._resolver.attempt(payload, end, partial(self._attempted, self._resolver, payload))

    def _attempted(self, resolver: Resolver, message: bytes, first: bytes | OSError | None) -> None:
        """Nearly always the first server has answered, and nothing waits but a callback."""
        if isinstance(first, bytes) and resolver.good(first):
            self._room.used -= 1
            self._conn.write_datagram(first)
        else:
            self._tasks.start(self._ask(resolver, message, first), "query")

    async def _ask(self, resolver: Resolver, message: bytes, first: bytes | OSError | None) -> None:
        try:
            answer = await resolver.query(message, first)
        except DialError:
            answer = wire.answer_without_records(message, wire.SERVFAIL)
        finally:
            self._room.used -= 1
        self._conn.write_datagram(answer)
