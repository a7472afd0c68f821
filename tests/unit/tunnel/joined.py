"""Two multiplexers joined by hand, without a stream: what tests of the protocol are written with."""

from collections.abc import Callable

from tproxy.model.flow import Address, FlowKind, OpenRequest, ResetReason
from tproxy.tunnel.conn import Buffer, Conn
from tproxy.tunnel.mux import Mux

REQUEST = OpenRequest(FlowKind.INBOUND, Address("10.1.2.3", 8080), Address("fd00::1", 40000), "uid-1", "shop/web-0")


BATCH = 512 * 1024
"""The size of batches here."""


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Recorder:
    """A sink that remembers. What it consumes is given back at once unless `lazy`."""

    def __init__(self, lazy: bool = False) -> None:
        self.conn: Conn | None = None
        self.lazy = lazy
        self.data = bytearray()
        self.events: list[str] = []
        self.unconsumed = 0
        self.paused = False

    def conn_opened(self) -> None:
        self.events.append("opened")

    def conn_data(self, data: Buffer) -> None:
        assert data, "empty DATA reached a sink"
        assert "eof" not in self.events
        self.data += data
        self.unconsumed += len(data)
        if not self.lazy:
            self.consume()

    def conn_eof(self) -> None:
        self.events.append("eof")

    def conn_reset(self, reason: ResetReason, detail: str) -> None:
        self.events.append(f"reset {reason.value} {detail}".strip())
        self.unconsumed = 0

    def conn_pause(self) -> None:
        assert not self.paused
        self.paused = True

    def conn_resume(self) -> None:
        assert self.paused
        self.paused = False

    def consume(self) -> None:
        size, self.unconsumed = self.unconsumed, 0
        assert self.conn is not None
        self.conn.consumed(size)


class Joined:
    """A node's and a laptop's side. Connections that a side's peer opens get a `Recorder` and are accepted."""

    def __init__(self, lazy: bool = False) -> None:
        self.clock = Clock()
        self.woken = {"node": 0, "laptop": 0}
        self.node = Mux(False, self.clock, self._wake("node"), self._serve)
        self.laptop = Mux(True, self.clock, self._wake("laptop"), self._serve)
        self.lazy = lazy
        self.accepting = True
        self.served: list[Conn] = []

    def _wake(self, side: str) -> Callable[[], None]:
        def wake() -> None:
            self.woken[side] += 1

        return wake

    def _serve(self, conn: Conn) -> None:
        sink = Recorder(self.lazy)
        sink.conn = conn
        conn.sink = sink
        self.served.append(conn)
        if self.accepting:
            conn.accept()

    def open(self, side: str = "node", lazy: bool = False) -> tuple[Conn, Recorder]:
        """Open a connection and carry the OPEN over; the other end of it is `served[-1]`."""
        sink = Recorder(lazy)
        conn = getattr(self, side).open(REQUEST, sink)
        sink.conn = conn
        self.carry()
        return conn, sink

    def open_quietly(self) -> tuple[Conn, Recorder]:
        """Open a connection from the node without carrying anything yet."""
        sink = Recorder()
        conn = self.node.open(REQUEST, sink)
        sink.conn = conn
        return conn, sink

    def carry(self) -> None:
        """Carry batches both ways until nobody has anything to say."""
        while self.node.outbox.waiting or self.laptop.outbox.waiting:
            self.carry_to_laptop()
            self.carry_to_node()

    def carry_to_laptop(self) -> None:
        """One batch from the node, if there is one."""
        if batch := self.node.outbox.take(BATCH):
            self.laptop.receive(batch)

    def carry_to_node(self) -> None:
        """One batch from the laptop, if there is one."""
        if batch := self.laptop.outbox.take(BATCH):
            self.node.receive(batch)

    def peer_of(self, conn: Conn) -> Conn:
        """The other end of a connection, dead or alive."""
        [peer] = [other for other in self.served if other.id == conn.id]
        return peer


def recorder(conn: Conn) -> Recorder:
    """The `Recorder` of a connection."""
    assert isinstance(conn.sink, Recorder)
    return conn.sink
