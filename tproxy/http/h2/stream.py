"""One request and its answer: two directions, each from one peer to another.

A stream's window is never ours to give: what a sender may send on a stream is what the receiver at the far end takes,
so that a stream which stands still holds nothing up and fills no memory here. Only what is already on its way when a
window turns out to be smaller waits in `queue`; of that there is at most what a stream may have to begin with.
"""

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tproxy.http.exchange import MAX_KEPT
from tproxy.http.h2 import frames as f
from tproxy.http.h2.blocks import Head
from tproxy.http.h2.peer import Peer
from tproxy.http.port import Choice
from tproxy.model.figures import Outcome

if TYPE_CHECKING:
    from tproxy.http.h2.link import Link

GRANT = 32 * 1024
"""A window is widened by so much at a time, or by less where little is left."""

LITTLE = 16 * 1024

MAX_KEPT_TOTAL = 1024 * 1024
"""Bytes of all requests of a connection that are kept to be repeated."""

MAX_PARKED = 4 * 1024 * 1024
"""Bytes of a client's connection that may wait for laptops."""

Item = tuple[bytes, bool, bool]
"""Bytes, whether they are a header block, whether the stream ends with them."""


@dataclass(slots=True)
class Parked:
    """Bytes of a client's connection that wait for laptops, or are kept in case one is lost."""

    bytes: int = 0
    kept: int = 0


class Half:
    """What goes from `source` to `sink`. `sink_id` is 0 as long as the sink has no room for the stream.

    With `parked` the bytes that wait count there, and no longer as DATA on its way to us: no other stream shall wait
    for this sink.
    """

    __slots__ = (
        "done",
        "ended",
        "given",
        "parked",
        "queue",
        "queued",
        "sink",
        "sink_id",
        "source",
        "source_id",
        "stream",
        "taken",
    )

    def __init__(self, stream: "Stream", source: Peer, source_id: int, sink: Peer, parked: "Parked | None") -> None:
        self.stream = stream
        self.source = source
        self.source_id = source_id
        self.sink = sink
        self.sink_id = 0
        self.parked = parked
        self.given = source.announced
        """What the source may still send."""
        self.taken = sink.initial
        """What the sink still takes."""
        self.queue: deque[Item] = deque()
        self.queued = 0
        self.ended = False
        """The source has said the last."""
        self.done = False
        """The sink has been told the last."""

    def data(self, payload: bytes, size: int, end: bool) -> None:
        """The source has sent DATA; `size` counts for its windows. Raises `StreamFaultError`."""
        self.given -= size
        if self.given < 0 and not self.source.settings_open:
            raise StreamFaultError(f.FLOW_CONTROL_ERROR)
        length = len(payload)
        if size > length:
            self.source.owe(size - length)
            if not end:
                self.given += size - length
                self.source.out.append(f.window_update(self.source_id, size - length))
        if self.parked is not None:
            self.source.owe(length)
        self.ended = self.ended or end
        sink = self.sink
        if not self.queue and self.sink_id and not sink.paused and length <= self.taken and length <= sink.window:
            self.taken -= length
            sink.data(self.sink_id, payload, end)
            self._sent(length, end)
            return
        self.put(payload, end)

    def put(self, payload: bytes, end: bool) -> None:
        """Let DATA wait that is in nobody's window."""
        self.queue.append((payload, False, end))
        self.queued += len(payload)
        if self.parked is not None:
            self.parked.bytes += len(payload)

    def headers(self, block: bytes, end: bool) -> None:
        """The source has sent a header block."""
        self.ended = self.ended or end
        if self.queue or not self.sink_id:
            self.queue.append((block, True, end))
            return
        self.sink.headers(self.sink_id, block, end)
        self.done = end

    def grow(self, more: int) -> None:
        """The sink takes more. Raises `StreamFaultError`."""
        if more == 0:
            raise StreamFaultError(f.PROTOCOL_ERROR)
        self.taken += more
        if self.taken > f.MAX_WINDOW:
            raise StreamFaultError(f.FLOW_CONTROL_ERROR)
        self.widen()

    def pump(self, quantum: int = f.MAX_WINDOW) -> bool:
        """Send what waits, at most `quantum` bytes; whether the connection's window, or its reader, is in the way."""
        queue, sink = self.queue, self.sink
        if not self.sink_id:
            return False
        while queue and quantum > 0:
            payload, block, end = queue[0]
            if block:
                queue.popleft()
                sink.headers(self.sink_id, payload, end)
                self.done = end
                continue
            length = len(payload)
            if length and sink.paused:
                return True
            size = min(length, self.taken, sink.window, quantum, f.MAX_FRAME)
            if size <= 0 and length:
                return self.taken > 0
            if size < length:
                queue[0] = (payload[size:], False, end)
                payload, end = payload[:size], False
            else:
                queue.popleft()
            self.queued -= size
            if self.parked is not None:
                self.parked.bytes -= size
            self.taken -= size
            quantum -= size
            sink.data(self.sink_id, payload, end)
            self._sent(size, end)
        return bool(queue)

    def _sent(self, size: int, end: bool) -> None:
        self.done = end
        if self.parked is None and size:
            self.source.owe(size)
        self.widen()

    def widen(self) -> None:
        """Let the source send what the sink takes."""
        if self.ended:
            return
        more = self.taken - self.queued - self.given
        if more >= GRANT or (more > 0 and self.given < LITTLE):
            self.given += more
            self.source.out.append(f.window_update(self.source_id, more))

    def drop(self) -> None:
        """Nothing of this will be sent any more."""
        if self.parked is not None:
            self.parked.bytes -= self.queued
        else:
            self.source.owe(self.queued)
        self.queue.clear()
        self.queued = 0


class StreamFaultError(Exception):
    """One stream cannot go on: `code` is for RST_STREAM."""

    def __init__(self, code: int) -> None:
        super().__init__(f"stream error {code}")
        self.code = code


class Stream:
    """A request of a client at `link`: the default upstream, or (`choice`) a laptop.

    `kept` is what was received of the request, to repeat it; None if it cannot be. `started`: a part of the answer
    has been passed on; `status` is the answer's; `gone`: it is of no interest any more.
    """

    __slots__ = (
        "began",
        "choice",
        "down",
        "gone",
        "head",
        "kept",
        "kept_bytes",
        "link",
        "outcome",
        "started",
        "status",
        "tries",
        "up",
    )

    up: Half
    down: Half
    link: "Link"

    def __init__(self, head: Head | None, choice: Choice | None, began: float) -> None:
        self.head = head
        self.choice = choice
        self.began = began
        self.outcome = Outcome.PASSED
        self.kept: list[Item] | None = None
        self.kept_bytes = 0
        self.started = False
        self.status = 0
        self.tries = 0
        self.gone = False

    def go(self, client: Peer, number: int, link: "Link", parked: "Parked | None") -> None:
        """Be at `link` from now on; what the windows at the client were like stays as it is."""
        before = None if self.tries == 0 else (self.up.given, self.up.ended, self.down.taken)
        self.tries += 1
        self.link = link
        self.up = Half(self, client, number, link.peer, parked)
        self.down = Half(self, link.peer, 0, client, None)
        self.down.sink_id = number
        if before is not None:
            self.up.given, self.up.ended, self.down.taken = before

    @property
    def number(self) -> int:
        """Its own at the client."""
        return self.up.source_id

    @property
    def over(self) -> bool:
        """Nothing more will be said on it."""
        return self.up.done and self.down.done

    def keep(self, item: Item, total: "Parked") -> None:
        """Remember a part of the request, as far as that is allowed."""
        if self.kept is None:
            return
        size = len(item[0])
        if self.kept_bytes + size > MAX_KEPT or total.kept + size > MAX_KEPT_TOTAL:
            self.forget(total)
            return
        self.kept.append(item)
        self.kept_bytes += size
        total.kept += size

    def forget(self, total: "Parked") -> None:
        """It will not be repeated."""
        self.kept = None
        total.kept -= self.kept_bytes
        self.kept_bytes = 0
