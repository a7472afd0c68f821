"""HTTP/1.0 and 1.1: every request of a connection is decided on its own, and their answers come in order.

    client ──requests──► default upstream     as many as the client likes to send ahead
                    └──► a laptop             one at a time

At any moment all requests under way are at one place; the next one for another place waits until they are answered.
Bytes are passed on as they came. Whatever can be read in two ways goes to the default upstream, and so does then
everything that follows on the connection.
"""

from tproxy.http.answers import END_OF_HEAD, Answers
from tproxy.http.exchange import PLAIN, Exchange, Kept, Matched, Remedy, failure, remedy
from tproxy.http.framing import Body, StrangeError
from tproxy.http.head import MAX_HEAD, RequestHead, RequestReader, without_h2c
from tproxy.http.plain import PlainMessages
from tproxy.http.plumbing import Plumbing
from tproxy.http.port import Buffer, Choice, Hop, Http2Maker, Upstream
from tproxy.http.undecided import HOLD_SECONDS
from tproxy.model.figures import Outcome
from tproxy.model.flow import ResetReason

MAX_PIPELINED = 256
"""Requests that a client may have under way."""


class Http1(Plumbing):
    """A `Router`. `default_lost`: the default upstream is gone already, or could not be reached."""

    def __init__(self, hop: Hop, http2: Http2Maker, default_lost: bool = False) -> None:
        super().__init__(hop, default_lost)
        self._http2 = http2
        self._plain = PlainMessages()
        self._requests = RequestReader()
        self._answers = Answers(self._answered)
        self._pending = self._answers.pending
        self._body: Body | None = None  # of the request that is arriving, for the last place named
        self._discarding = False  # that body is for nobody
        self._alone = False  # the next one is for a laptop and must wait for others
        self._reading = False  # `_read` is at work, and goes on by itself
        self._draining = False
        self._now = hop.now
        self._spare: Exchange | None = None  # of a plain request that has been answered: as good as new

    # Requests

    def client_data(self, data: bytes) -> None:
        """The client's bytes, however they are cut."""
        undecided = self._undecided
        if not (self._blocked or undecided.bytes or self._body or self._default_lost or self._over):
            telling = self._hop.matcher.telling
            if telling is not None and self._plain.request(data, telling):
                exchange = self._spare or Exchange(PLAIN, 0.0)
                self._spare = None
                exchange.began = self._now()
                self._pending.append(exchange)
                self._default.write(data)
                if len(self._pending) >= MAX_PIPELINED:
                    self._blocked = True
                return
        if self._over:
            return
        if undecided.bytes:
            whole = undecided.add(data)
            if self._blocked:
                self._stop()
            elif whole or not undecided.promising:
                self._read(undecided.take())
            else:
                self._hop.wake(HOLD_SECONDS)
        else:
            self._read(data)

    def _read(self, data: bytes) -> None:
        self._reading = True
        rest = self._read_requests(data)
        self._reading = False
        if self._over:
            return
        if rest:
            self._undecided.add(rest)
            if self._blocked:
                self._stop()
            elif self._undecided.promising:
                self._hop.wake(HOLD_SECONDS)
            else:
                self._raw(self._default, self._undecided.take())
        elif self._draining and self._matched is None:
            self._raw(self._default, b"")

    def _read_requests(self, data: bytes) -> bytes:
        """Deal with what can be dealt with now; returns the rest."""
        at, end = 0, len(data)
        while at < end and not self._over:
            if self._body is not None:
                at = self._read_body(self._body, data, at)
                continue
            if self._blocked:
                return data[at:]
            if data.startswith(b"\r\n", at):  # some clients end a body with one line too many
                self._pass(data[at : at + 2])
                at += 2
                continue
            stop = data.find(END_OF_HEAD, at, at + MAX_HEAD)
            if stop < 0:
                return data[at:]
            stop += 4
            head = data[at:stop]
            matcher = self._hop.matcher
            try:
                request = self._requests.read(head, matcher.names)
            except StrangeError:
                self._raw(self._default, data[at:])
                return b""
            choice = matcher.pick(request.method, request.target, request.fields)
            if choice is None:
                self._body = request.body
                self._to_default(Exchange(request, self._hop.now()), head)
            elif self._pending:
                self._blocked = self._alone = True
                return data[at:]
            else:
                self._to_laptop(request, choice, head)
            at = stop
        return b""

    def _read_body(self, body: Body, data: bytes, at: int) -> int:
        matched = self._matched
        try:
            stop = body.take(data, at)
        except StrangeError:
            laptop = matched.upstream if matched is not None else None
            self._raw(laptop or self._default, data[at:])
            return len(data)
        if matched is not None:
            matched.send(data[at:stop])
        elif not self._discarding:
            self._pass(data[at:stop])
        if body.done:
            self._body = None
            self._discarding = False
            if matched is not None and matched.exchange.answered:
                self._laptop_done(matched)
        return stop

    def _to_default(self, exchange: Exchange, data: bytes) -> None:
        self._pass(data)
        self._pending.append(exchange)
        if exchange.request.upgrade or len(self._pending) >= MAX_PIPELINED:
            self._blocked = True

    def _to_laptop(self, request: RequestHead, choice: Choice, head: bytes) -> None:
        if self._undecided.shown:
            # The app has got the beginning of somebody else's request: nothing can follow on that connection.
            self._undecided.shown = 0
            self._lose_default()
        if request.upgrade == b"h2c":
            # Every stream of such a connection would be the laptop's; a server may ignore the offer (RFC 9110, 7.8).
            head = without_h2c(head)
            request.upgrade = b""
        exchange = Exchange(request, self._hop.now(), choice, Outcome.MATCHED)
        self._matched = matched = Matched(exchange, choice)
        self._pending.append(exchange)
        self._body = request.body
        self._blocked = True
        self._try_laptop(matched, [head])

    def _try_laptop(self, matched: Matched, pieces: list[Buffer]) -> None:
        matched.kept = Kept()
        matched.upstream = self._hop.open(matched.choice)
        if matched.upstream is not None and self._slow:
            matched.upstream.pause()
        for piece in pieces:
            matched.send(piece)
        if matched.upstream is None:
            self._laptop_failed(matched, ResetReason.LIMIT, "")

    def client_eof(self) -> None:
        """The client sends no more."""
        self._client_eof = True
        matched = self._matched
        if self._over:
            self._end()
        elif matched is not None and self._body is not None:
            self._body = None  # the rest of it will never come
            matched.exchange.request.persistent = False
            if matched.upstream is not None:
                matched.upstream.write_eof()
        elif self._body is not None or not self._blocked:
            self._raw(self._default, self._undecided.take())

    def client_lost(self) -> None:
        """The client is gone."""
        self._over = True
        self._release_all(reset=True)

    # Answers

    def upstream_data(self, upstream: Upstream, data: Buffer) -> None:
        """An upstream's bytes, however they are cut."""
        if not isinstance(data, bytes):
            data = bytes(data)
        pending = self._pending
        if len(pending) == 1 and upstream is self._default and not self._over:
            exchange = pending[0]
            if exchange.request is PLAIN and not exchange.started and (status := self._plain.answer(data)):
                self._client.write(data)
                pending.clear()
                self._hop.record(exchange.outcome, None, status, self._now() - exchange.began)
                self._spare = exchange
                if self._blocked:
                    self._go_on()
                return
        if self._over:
            return
        matched = self._matched
        if upstream is not (self._default if matched is None else matched.upstream) or not self._pending:
            self._unasked(upstream, data)
            return
        try:
            stop = self._answers.read(data)
        except StrangeError:
            self._client.write(data)
            self._raw(upstream, self._undecided.take())
            return
        if stop == len(data):
            self._client.write(data)
            rest = b""
        else:
            self._client.write(data[:stop])
            rest = data[stop:]
        if self._answers.switched:
            self._switch(upstream, rest)
        elif matched is not None:
            if matched.exchange.answered and self._body is None:
                self._laptop_done(matched, bool(rest))
        elif rest:
            self._unasked(upstream, rest)
        elif self._blocked and not (self._pending and (self._alone or self._pending[-1].request.upgrade)):
            self._go_on()

    def _answered(self, exchange: Exchange) -> None:
        self._hop.record(exchange.outcome, exchange.choice, exchange.status, self._hop.now() - exchange.began)

    def _laptop_done(self, matched: Matched, more: bool = False) -> None:
        """It has answered, and has got the whole request. `more`: it has said more than that."""
        self._matched = None
        if matched.upstream is not None:
            self._full.discard(matched.upstream)
            if matched.exchange.persistent and not more:
                matched.upstream.release()
            else:
                matched.upstream.close()
        if matched.exchange.persistent:
            self._go_on()
        else:
            self._finish()

    def _go_on(self) -> None:
        """Requests may be begun again."""
        self._blocked = self._alone = False
        if self._reading:
            return
        if self._undecided:
            self._read(self._undecided.take())
        elif self._draining:
            self._raw(self._default, b"")
        if not self._over and not self._blocked:
            self._start()
            if self._client_eof:
                self._raw(self._default, self._undecided.take())

    def _switch(self, upstream: Upstream, rest: bytes) -> None:
        """The upstream has agreed to speak something else."""
        exchange = self._pending[0]
        self._answered(exchange)
        if exchange.request.upgrade != b"h2c" or exchange.status != 101:
            self._client.write(rest)
            self._raw(upstream, self._undecided.take())
            return
        self._over = True
        router = self._http2(self._hop, b"", True)
        self._hop.become(router)
        self._start()
        if rest:
            router.upstream_data(upstream, rest)
        if self._undecided:
            router.client_data(self._undecided.take())
        if self._client_eof:
            router.client_eof()

    def _unasked(self, upstream: Upstream, data: Buffer) -> None:
        if upstream is not self._default:
            return
        if self._matched is None:
            # No HTTP, or the end: what servers say to a connection that is idle for too long.
            self._client.write(data)
            self._raw(upstream, self._undecided.take())
        else:
            self._lose_default()  # that must not get into the laptop's answer

    # Upstreams that end

    def upstream_eof(self, upstream: Upstream) -> None:
        """An upstream sends no more."""
        matched = self._matched
        if self._over:
            return
        if upstream is self._default:
            if matched is not None:
                self._lose_default()
            else:
                self._answers.end()
                self._raw(upstream, self._undecided.take())
        elif matched is not None and upstream is matched.upstream:
            exchange = matched.exchange
            if exchange.answered or not exchange.started:
                self._laptop_failed(matched, ResetReason.RESET, "")
                return
            if not self._answers.end():
                self._failed(exchange)  # cut off, and so it is for the client
            upstream.close()
            self._matched = None
            self._finish()

    def upstream_lost(self, upstream: Upstream, reason: ResetReason, detail: str) -> None:
        """An upstream is gone."""
        self._full.discard(upstream)
        if self._over:
            return
        if upstream is self._default:
            self._default_lost = True
            # One that never stood and was asked for nothing is not missed.
            missed = reason is ResetReason.RESET or self._pending or self._undecided.shown
            if self._matched is None and missed and not self._replaced(reason, detail):
                self._end(reset=True)
        elif self._matched is not None and upstream is self._matched.upstream:
            self._matched.upstream = None
            self._laptop_failed(self._matched, reason, detail, upstream.reused)

    def _laptop_failed(self, matched: Matched, reason: ResetReason, detail: str, reused: bool = False) -> None:
        exchange = matched.exchange
        upstream, matched.upstream = matched.upstream, None
        if upstream is not None:
            reused = upstream.reused
            upstream.close()
        if exchange.answered:
            # What it has not read of the request is lost with it.
            exchange.persistent = False
            self._laptop_done(matched)
            return
        if exchange.started:
            self._failed(exchange)
            self._end(reset=True)
            return
        pieces = matched.kept.pieces
        what = remedy(matched.choice, exchange.request.method, reason, pieces is not None, reused)
        if what is Remedy.AGAIN and pieces is not None:
            self._try_laptop(matched, pieces)
            return
        self._matched = None
        self._pending.clear()
        if what is Remedy.APP and pieces is not None:
            exchange.outcome = Outcome.FALLBACK
            self._blocked = False
            self._to_default(exchange, b"".join(pieces))
            if not self._blocked:
                self._go_on()
            return
        said = failure(matched.choice, reason, detail)
        # A client that waits for leave to send its body may go on without: where its next request begins is open.
        last = not exchange.request.persistent or (exchange.request.expects and self._body is not None)
        exchange.status = 502
        self._failed(exchange)
        self._client.write(said.answer(exchange.request.method == b"HEAD", last))
        if last:
            self._finish()
        else:
            self._discarding = self._body is not None
            self._go_on()

    def _failed(self, exchange: Exchange) -> None:
        exchange.outcome = Outcome.FAILED
        self._answered(exchange)

    # The connection's end, or the end of our interest in it

    def timeout(self) -> None:
        """A request has stopped in the middle of its head, or a client that was told the end goes on sending."""
        if self._over:
            self._end()
        elif self._undecided and not self._blocked:
            self._pass(self._undecided.peek())
            self._undecided.shown = len(self._undecided)

    def drain(self) -> None:
        """Nobody intercepts this port any more."""
        self._draining = True
        if self._matched is None and not self._over:
            self._raw(self._default, self._undecided.take())
