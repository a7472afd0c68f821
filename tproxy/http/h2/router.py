"""HTTP/2: every stream of a client's connection goes where its request belongs.

    client ──streams──► default upstream     one connection
                   └──► laptops              one connection for each intercept that has requests

Streams are passed on frame by frame; what belongs to a connection as a whole ends here (`peer`). The app's GOAWAY and
the end of its connection are for the client all the same: that is how a pod that ends tells its clients to turn to
another one.
"""

from tproxy.http.h2 import frames as f
from tproxy.http.h2 import peer as events
from tproxy.http.h2.blocks import understand
from tproxy.http.h2.book import MAX_STREAMS, Book
from tproxy.http.h2.link import Link
from tproxy.http.h2.peer import Event
from tproxy.http.h2.stream import MAX_PARKED, Stream, StreamFaultError
from tproxy.http.h2.upstreams import Upstreams
from tproxy.http.plumbing import LINGER_SECONDS
from tproxy.http.port import Buffer, Hop, Upstream
from tproxy.model.figures import Outcome
from tproxy.model.flow import ResetReason

MAX_EARLY = 256 * 1024
"""Bytes of an upstream that are held until the client has said hello."""

LAST_CALL = b"tproxyby"
"""The PING whose answer tells that the client has seen the first of two GOAWAYs."""


class Http2:
    """A `Router`; see `Http2Maker` for what `early` and `upgraded` are."""

    def __init__(self, hop: Hop, early: bytes, upgraded: bool) -> None:
        self._hop = hop
        self._book = Book(hop)
        self._client = self._book.client
        self._upstreams = Upstreams(hop, self._book, self, upgraded)
        self._matcher = hop.matcher
        self._early = early
        self._hello = b""  # the client's preface, as far as it has come
        self._greeted = False  # it has come, and our own SETTINGS are out
        self._settled = False  # the client has told its settings, the default upstream ours
        self._told = (MAX_STREAMS, f.DEFAULT_WINDOW, False)  # what the client knows of the default upstream
        self._retiring = False
        self._last: int | None = None  # no stream beyond this one
        self._client_eof = False
        self._over = False
        self._lingering = False  # it is over, but the client may not have read everything yet
        if upgraded and self._upstreams.default is not None:
            self._take_up_upgrade(self._upstreams.default)

    def _take_up_upgrade(self, link: Link) -> None:
        """Stream 1 is the request that asked for HTTP/2, which the default upstream has."""
        stream = Stream(None, None, self._hop.now())
        stream.go(self._client, 1, link, None)
        stream.up.sink_id = stream.down.source_id = 1
        stream.up.ended = stream.up.done = True
        stream.down.given = f.MAX_WINDOW  # what the client offered in its request was between those two
        link.streams[1] = self._book.streams[1] = stream
        self._book.highest = 1

    # The client

    def client_data(self, data: bytes) -> None:
        """The client's bytes, however they are cut."""
        if self._over:
            return
        try:
            if not self._greeted:
                self._hello += data
                if len(self._hello) < len(f.PREFACE) and f.PREFACE.startswith(self._hello):
                    return
                if not self._hello.startswith(f.PREFACE):
                    raise f.FaultError(f.PROTOCOL_ERROR, "no preface")
                data, self._hello = self._hello[len(f.PREFACE) :], b""
                self._greet()
            self._read(data)
        except f.FaultError as fault:
            self._break_off(fault)
        self._flush()

    def _greet(self) -> None:
        self._greeted = True
        early, self._early = self._early, b""
        link = self._upstreams.default
        if early and link is not None:
            self._upstreams.read(link, early)
            self._told = self._properties()
        streams, window, connect = self._told
        values = {f.MAX_CONCURRENT_STREAMS: streams}
        if window != f.DEFAULT_WINDOW:
            values[f.INITIAL_WINDOW_SIZE] = window
        if connect:
            values[f.ENABLE_CONNECT_PROTOCOL] = 1
        self._client.begin(b"", values)
        if self._retiring:
            self._retire()

    def _properties(self) -> tuple[int, int, bool]:
        """What the client should know of the default upstream: streams at a time, their window, extended CONNECT."""
        link = self._upstreams.default
        if link is None or not link.peer.alive:
            return self._told
        peer = link.peer
        return min(MAX_STREAMS, peer.max_streams), min(f.DEFAULT_WINDOW, peer.initial), peer.connect_protocol

    def _read(self, data: bytes) -> None:
        for one in self._client.read(data):
            if not self._settled and one[0] != events.SETTINGS:
                raise f.FaultError(f.PROTOCOL_ERROR, "a client has to begin with SETTINGS")
            try:
                self._on_event(one)
            except StreamFaultError as fault:
                if (stream := self._book.streams.get(one[1])) is not None:
                    self._book.cancel(stream, f.CANCEL)
                    self._book.reset(stream, fault.code)
            if self._over:
                return

    def _on_event(self, one: Event) -> None:
        kind, number, payload, value, end = one
        book = self._book
        if kind == events.HEADERS:
            if number > book.highest:
                self._open(number, payload, end)
            elif (stream := book.known(number)) is not None and not stream.up.ended:
                stream.keep((payload, True, end), book.parked)
                stream.up.headers(payload, end)
                book.settle(stream)
        elif kind == events.DATA:
            stream = book.known(number)
            if stream is None or stream.up.ended:
                self._client.owe(value)
            else:
                self._on_data(stream, payload, value, end)
        elif kind == events.WINDOW_MORE:
            if number == 0:
                book.finished(self._client.unblock())
            elif (stream := book.known(number)) is not None:
                stream.down.grow(value)
                book.settle(stream)
        elif kind == events.RESET:
            if (stream := book.known(number)) is not None:
                if not stream.started:
                    book.futile()
                book.cancel(stream, value)
                stream.up.ended = True
                book.close(stream)
        elif kind == events.SETTINGS:
            self._on_settings(value)
        elif kind == events.PONG:
            if payload == LAST_CALL and self._retiring and self._last is None:
                self._say_last(f.NO_ERROR, b"")
        elif kind == events.PROMISE:
            raise f.FaultError(f.PROTOCOL_ERROR, "a client promises nothing")

    def _open(self, number: int, block: bytes, end: bool) -> None:
        """A new request."""
        matcher = self._hop.matcher
        if matcher is not self._matcher:
            self._matcher = matcher
            self._upstreams.close_unused()
        head = understand(block, matcher.names)
        if self._last is not None:
            self._book.highest = number  # it has been told that nobody will look at it
            return
        if not self._book.begin(number):
            return
        choice = matcher.pick(head.method, head.target, head.fields)
        stream = self._book.streams[number] = Stream(head, choice, self._hop.now())
        item = (block, True, end)
        if choice is not None and choice.intercept:
            stream.outcome = Outcome.MATCHED
            stream.kept = []
            stream.keep(item, self._book.parked)
        self._upstreams.place(stream, number, [item])

    def _on_data(self, stream: Stream, payload: bytes, size: int, end: bool) -> None:
        parked = self._book.parked
        stream.keep((payload, False, end), parked)
        stream.up.data(payload, size, end)
        if parked.bytes > MAX_PARKED and stream.up.queued:
            raise StreamFaultError(f.ENHANCE_YOUR_CALM)
        self._book.settle(stream)

    def _on_settings(self, change: int) -> None:
        if change:
            for stream in list(self._book.streams.values()):
                stream.down.taken += change
                stream.down.widen()
                self._book.settle(stream)
        if self._settled:
            if change:
                self._upstreams.window_changed(change)
            return
        self._settled = True
        if (link := self._upstreams.default) is not None:
            link.begin(self._client.initial)

    def client_eof(self) -> None:
        """The client sends no more: what it has asked for in full can still be answered."""
        self._client_eof = True
        if self._over:
            self._stop_lingering()
            return
        self._last = self._book.highest
        for stream in list(self._book.streams.values()):
            if not stream.up.ended:
                self._book.cancel(stream, f.CANCEL)
                stream.up.ended = True
                self._book.close(stream)
        self._flush()

    def client_lost(self) -> None:
        """The client is gone."""
        if not self._over:
            self._over = True
            self._upstreams.end(reset=bool(self._book.streams))

    def client_pause(self) -> None:
        """The client reads slowly."""
        self._client.paused = True
        self._upstreams.pause()

    def client_resume(self) -> None:
        """It has caught up."""
        if self._over:
            return
        self._client.resume()
        self._upstreams.resume()
        self._book.finished(self._client.unblock())
        self._flush()

    # Upstreams

    def upstream_data(self, upstream: Upstream, data: Buffer) -> None:
        """An upstream's bytes, however they are cut."""
        link = self._upstreams.links.get(upstream)
        if link is None or self._over:
            return
        if self._settled:
            self._upstreams.read(link, bytes(data))
            self._flush()
            return
        self._early += data
        if len(self._early) > MAX_EARLY:
            self._break_off(f.FaultError(f.PROTOCOL_ERROR, "an upstream that talks to nobody"))

    def upstream_eof(self, upstream: Upstream) -> None:
        """An upstream sends no more, so that it cannot answer either."""
        upstream.close()
        self._gone(upstream, ResetReason.RESET, "", True)

    def upstream_lost(self, upstream: Upstream, reason: ResetReason, detail: str) -> None:
        """An upstream is gone."""
        self._gone(upstream, reason, detail, False)

    def _gone(self, upstream: Upstream, reason: ResetReason, detail: str, orderly: bool) -> None:
        link = self._upstreams.links.get(upstream)
        if link is not None and not self._over:
            self._upstreams.lost(link, reason, detail, orderly)
            self._flush()

    def upstream_pause(self, upstream: Upstream) -> None:
        """It takes no more for now."""
        if (link := self._upstreams.links.get(upstream)) is not None:
            link.peer.paused = True

    def upstream_resume(self, upstream: Upstream) -> None:
        """It takes more."""
        link = self._upstreams.links.get(upstream)
        if link is not None and not self._over:
            self._upstreams.writable(link)
            self._flush()

    def default_changed(self) -> None:
        """The default upstream has told other settings: what they mean for streams is for the client."""
        if not self._greeted:
            return
        before, now = self._told, self._properties()
        if now == before:
            return
        self._told = now
        values = {}
        if now[0] != before[0]:
            values[f.MAX_CONCURRENT_STREAMS] = now[0]
        if now[1] != before[1]:
            values[f.INITIAL_WINDOW_SIZE] = now[1]
            for stream in self._book.streams.values():
                stream.up.given += now[1] - before[1]
        if now[2] and not before[2]:
            values[f.ENABLE_CONNECT_PROTOCOL] = 1
        if values:
            self._client.tell(values)

    def default_leaving(self, last: int, code: int, why: bytes) -> None:
        """The default upstream says GOAWAY, and so do we."""
        if self._last is not None:
            return
        if last == f.MAX_STREAM:
            self._client.out.append(f.goaway(last, code, why[:256]))
        else:
            self._say_last(code, why[:256])

    def default_gone(self, orderly: bool) -> None:
        """The default upstream has ended its connection: this one ends, too, when laptops have answered."""
        waiting = any(stream.choice is not None for stream in self._book.streams.values())
        if not waiting and (self._book.streams or not orderly):
            self._end(reset=not orderly)
        elif self._last is None:
            self._say_last(f.NO_ERROR, b"")

    # The end

    def timeout(self) -> None:
        """The client has had its time to read the rest."""
        self._stop_lingering()

    def drain(self) -> None:
        """Nobody intercepts this port any more: the client's next requests shall come on another connection."""
        if self._retiring or self._over:
            return
        self._retiring = True
        if self._greeted:
            self._retire()
            self._flush()

    def _retire(self) -> None:
        """Two GOAWAYs, so that no request is lost that is on its way when the client hears of it (RFC 9113, 6.8)."""
        self._client.out.append(f.goaway(f.MAX_STREAM, f.NO_ERROR) + f.frame(f.PING, 0, 0, LAST_CALL))

    def _say_last(self, code: int, why: bytes) -> None:
        self._last = self._book.highest
        self._client.out.append(f.goaway(self._last, code, why))

    def _flush(self) -> None:
        if self._over:
            return
        try:
            self._client.flush()
        except f.FaultError:
            self._end(reset=True)
            return
        for link in list(self._upstreams.links.values()):
            try:
                link.peer.flush()
            except f.FaultError:
                link.upstream.reset()
                self._gone(link.upstream, ResetReason.RESET, "", False)
        if self._last is not None and not self._book.streams and not self._over:
            self._end()

    def _break_off(self, fault: f.FaultError) -> None:
        """The client breaks the rules."""
        if self._over:
            return
        self._client.out.append(f.goaway(self._book.highest, fault.code, str(fault).encode()))
        try:
            self._client.flush()
        except f.FaultError:
            self._hop.client.reset()
        else:
            self._hop.client.close()
        self.client_lost()

    def _end(self, reset: bool = False) -> None:
        """Everything has been said. Closed at once, with more of it on its way to us, the client would be reset.

        It sends WINDOW_UPDATEs as it reads, and would not see the rest of the last answers.
        """
        if self._over:
            return
        self._over = True
        if reset:
            self._hop.client.reset()
        elif self._client_eof:
            self._hop.client.close()
        else:
            self._lingering = True
            self._hop.client.write_eof()
            self._hop.wake(LINGER_SECONDS)
        self._upstreams.end(reset)

    def _stop_lingering(self) -> None:
        if self._lingering:
            self._lingering = False
            self._hop.wake(None)
            self._hop.client.close()
