"""A connection of ours to an upstream that speaks HTTP/2: its streams, and those that wait for room."""

from collections import deque

from tproxy.http.h2 import frames as f
from tproxy.http.h2.peer import Peer
from tproxy.http.h2.stream import Stream
from tproxy.http.port import Choice, Upstream


class Link:
    """`choice` is None at the default upstream. `upgraded`: stream 1 is the client's request, sent already."""

    def __init__(self, upstream: Upstream, choice: Choice | None, upgraded: bool = False) -> None:
        self.upstream = upstream
        self.choice = choice
        self.peer = Peer(upstream, table=64 * 1024 if upgraded else 4096)
        self.streams: dict[int, Stream] = {}
        self.waiting: deque[Stream] = deque()
        self.used = False
        """A stream has got its answer here."""
        self.leaving = False
        """No new streams: the upstream has said GOAWAY, or nobody needs it any more."""
        self._next = 3 if upgraded else 1

    def begin(self, window: int) -> None:
        """Say hello. A new stream may send us `window` bytes, which is what the client takes."""
        self.peer.begin(f.PREFACE, {f.ENABLE_PUSH: 0, f.INITIAL_WINDOW_SIZE: window})

    def admit(self, stream: Stream) -> None:
        """Give a stream its number, or let it wait until there is room."""
        if self.waiting or not self._has_room:
            self.waiting.append(stream)
        else:
            self._number(stream)

    def fill(self) -> list[Stream]:
        """Let in streams that wait, as far as there is room; those have something to send."""
        admitted = []
        while self.waiting and self._has_room:
            stream = self.waiting.popleft()
            if not stream.gone and stream.link is self:
                self._number(stream)
                admitted.append(stream)
        return admitted

    @property
    def _has_room(self) -> bool:
        return len(self.streams) < self.peer.max_streams and not self.peer.crowded and not self.exhausted

    def _number(self, stream: Stream) -> None:
        number, self._next = self._next, self._next + 2
        stream.up.sink_id = stream.down.source_id = number
        self.streams[number] = stream

    @property
    def exhausted(self) -> bool:
        """It has no numbers left for streams."""
        return self._next >= f.MAX_STREAM

    def all_streams(self) -> list[Stream]:
        """Those it has and those that wait."""
        waiting = (stream for stream in self.waiting if not stream.gone and stream.link is self)
        return [*self.streams.values(), *waiting]

    def close(self, code: int = f.NO_ERROR, why: str = "") -> None:
        """End it, and say why; nobody needs it any more."""
        self.peer.out.append(f.goaway(0, code, why.encode()))
        try:
            self.peer.flush()
        except f.FaultError:
            self.upstream.reset()
        else:
            self.upstream.close()
