"""Where a client's streams are: at the default upstream and at laptops, and what becomes of them when those go."""

from collections.abc import Sequence
from typing import Protocol

from tproxy.http.exchange import Failure, Remedy, failure, remedy
from tproxy.http.h2 import frames as f
from tproxy.http.h2 import peer as events
from tproxy.http.h2.blocks import understand
from tproxy.http.h2.book import Book
from tproxy.http.h2.link import Link
from tproxy.http.h2.peer import Event
from tproxy.http.h2.stream import Item, Stream, StreamFaultError
from tproxy.http.port import Choice, Hop, Upstream
from tproxy.model.figures import Outcome
from tproxy.model.flow import ResetReason

MAX_TRIES = 3
"""How often a request may be sent that upstreams say they have not looked at."""

_NO_HTTP2 = Failure("local-app-not-http2", "the local app does not speak HTTP/2 without TLS")
_APP_GONE = Failure("app-gone", "the app has ended the connection without an answer")


class Owner(Protocol):
    """Who has the client, and hears of the default upstream."""

    def default_changed(self) -> None:
        """It has told other settings."""

    def default_leaving(self, last: int, code: int, why: bytes) -> None:
        """It has said GOAWAY. `last` is `MAX_STREAM` as long as it takes what comes."""

    def default_gone(self, orderly: bool) -> None:
        """It is gone, and with it what it had; `orderly`: not by a reset."""


class Upstreams:
    """All connections of ours behind one client's."""

    def __init__(self, hop: Hop, book: Book, owner: Owner, upgraded: bool) -> None:
        self._hop = hop
        self._book = book
        self._owner = owner
        self.default: Link | None = Link(hop.default, None, upgraded)
        self.links: dict[Upstream, Link] = {hop.default: self.default}
        self._laptops: dict[str, Link] = {}
        self._slow = False

    # Connections

    def _default(self) -> Link:
        if self.default is None or self.default.exhausted:
            self.default = self._connect(self._hop.reopen(), None)
        return self.default

    def _laptop(self, choice: Choice) -> Link | None:
        link = self._laptops.get(choice.intercept)
        if link is None or link.leaving or link.exhausted:
            upstream = self._hop.open(choice, fresh=True)
            if upstream is None:
                return None
            link = self._laptops[choice.intercept] = self._connect(upstream, choice)
        return link

    def _connect(self, upstream: Upstream, choice: Choice | None) -> Link:
        link = self.links[upstream] = Link(upstream, choice)
        link.begin(self._book.client.initial)
        if self._slow:
            upstream.pause()
        return link

    def _forget(self, link: Link) -> None:
        self.links.pop(link.upstream, None)
        if link is self.default:
            self.default = None
        elif link.choice is not None and self._laptops.get(link.choice.intercept) is link:
            del self._laptops[link.choice.intercept]

    def close_unused(self) -> None:
        """The intercepts are others than before: laptops with no streams may have no part any more."""
        for link in list(self._laptops.values()):
            link.leaving = True
            self._close_if_done(link)

    def _close_if_done(self, link: Link) -> None:
        if link.leaving and link.choice is not None and not link.all_streams():
            self._forget(link)
            link.close()

    def pause(self) -> None:
        """The client reads slowly, and everything here is for it."""
        self._slow = True
        for link in self.links.values():
            link.upstream.pause()

    def resume(self) -> None:
        """It has caught up."""
        self._slow = False
        for link in self.links.values():
            link.upstream.resume()

    def window_changed(self, change: int) -> None:
        """A new stream of the client takes more, or less."""
        for link in self.links.values():
            link.peer.tell({f.INITIAL_WINDOW_SIZE: self._book.client.initial})
            for stream in link.all_streams():
                stream.down.given += change

    def end(self, reset: bool) -> None:
        """The client is gone."""
        for link in self.links.values():
            if reset:
                link.upstream.reset()
            else:
                link.close()
        self.links.clear()

    # Requests

    def place(self, stream: Stream, number: int, items: Sequence[Item]) -> None:
        """Send a request, as far as it is known, where it belongs."""
        choice = stream.choice
        if choice is None or stream.outcome is Outcome.FALLBACK:
            self._send(stream, number, self._default(), items)
            return
        link = self._laptop(choice)
        if link is not None:
            self._send(stream, number, link, items)
            return
        # Nobody has it: what could be done is done by the default's rules, where a link is needed for the books.
        stream.go(self._book.client, number, self._nowhere(), self._book.parked)
        stream.up.ended = bool(items) and items[-1][2]
        self._failed(stream, ResetReason.LIMIT, "", False)

    def _nowhere(self) -> Link:
        return Link(self._hop.default, None)

    def _send(self, stream: Stream, number: int, link: Link, items: Sequence[Item]) -> None:
        laptops = stream.choice is not None and bool(stream.choice.intercept)
        stream.go(self._book.client, number, link, self._book.parked if laptops else None)
        link.admit(stream)
        for payload, block, end in items:
            if block:
                stream.up.headers(payload, end)
            else:
                stream.up.put(payload, end)
        self._book.settle(stream)

    # What upstreams say

    def read(self, link: Link, data: bytes) -> None:
        """An upstream's bytes."""
        try:
            for one in link.peer.read(data):
                try:
                    self._on_event(link, one)
                except StreamFaultError as fault:
                    link.peer.out.append(f.rst_stream(one[1], fault.code))
                    if (stream := link.streams.get(one[1])) is not None:
                        self._book.reset(stream, f.INTERNAL_ERROR)
                if link.upstream not in self.links:
                    return
        except f.FaultError as fault:
            link.close(fault.code, str(fault))
            self.lost(link, ResetReason.RESET, "", orderly=True)
            return
        self._close_if_done(link)

    def _on_event(self, link: Link, one: Event) -> None:
        kind, number, payload, value, end = one
        stream = link.streams.get(number)
        if kind == events.HEADERS:
            status = understand(payload).status
            if stream is not None and not stream.down.ended:
                self._on_answer(stream, status, payload, end)
        elif kind == events.DATA:
            if stream is None or stream.down.ended:
                link.peer.owe(value)
                return
            stream.down.data(payload, value, end)
            self._book.settle(stream)
        elif kind == events.WINDOW_MORE:
            if number == 0:
                self._book.finished(link.peer.unblock())
            elif stream is not None:
                stream.up.grow(value)
                self._book.settle(stream)
        elif kind == events.RESET:
            if stream is not None:
                self._on_reset(stream, value)
        elif kind == events.GOAWAY:
            self._on_goaway(link, number, value, payload)
        elif kind == events.SETTINGS:
            self._on_settings(link, value)
        elif kind == events.PROMISE:
            link.peer.out.append(f.rst_stream(value, f.REFUSED_STREAM))

    def _on_answer(self, stream: Stream, status: int, block: bytes, end: bool) -> None:
        if not stream.started:
            stream.started = stream.link.used = True
            stream.forget(self._book.parked)
        if status >= 200:
            stream.status = status
        stream.down.headers(block, end)
        self._book.settle(stream)

    def _on_reset(self, stream: Stream, code: int) -> None:
        if stream.down.ended:
            self._book.cut(stream)
        elif code == f.REFUSED_STREAM and self._can_move(stream):
            self._again(stream)
        else:
            self._book.reset(stream, code)

    def _on_goaway(self, link: Link, last: int, code: int, why: bytes) -> None:
        if link is self.default:
            self._owner.default_leaving(last, code, why)
        elif last < f.MAX_STREAM:
            link.leaving = True
        for stream in link.all_streams():
            if stream.up.sink_id > last or (not stream.up.sink_id and last < f.MAX_STREAM):
                if self._can_move(stream):
                    self._again(stream)
                else:
                    self._book.reset(stream, f.REFUSED_STREAM)

    def _can_move(self, stream: Stream) -> bool:
        """Whether a request that its laptop has not looked at can be sent once more."""
        return stream.kept is not None and not stream.started and stream.tries < MAX_TRIES

    def _on_settings(self, link: Link, change: int) -> None:
        if change:
            for stream in link.all_streams():
                stream.up.taken += change
                stream.up.widen()
                self._book.settle(stream)
        for stream in link.fill():
            self._book.settle(stream)
        if link is self.default:
            self._owner.default_changed()

    def writable(self, link: Link) -> None:
        """An upstream takes more."""
        link.peer.resume()
        self._book.finished(link.peer.unblock())
        for stream in link.fill():
            self._book.settle(stream)

    # Upstreams that end

    def lost(self, link: Link, reason: ResetReason, detail: str, orderly: bool) -> None:
        """An upstream is gone."""
        default = link is self.default
        self._forget(link)
        streams = link.all_streams()
        link.waiting.clear()  # they get no room here any more
        if not default:
            for stream in streams:
                if stream.gone:
                    continue
                unsent = reason is ResetReason.TUNNEL_LOST and not stream.up.sink_id
                self._failed(stream, ResetReason.LIMIT if unsent else reason, detail, link.used)
            return
        if not link.peer.alive and reason is not ResetReason.RESET:
            # It could not be reached. It may be soon, and laptops may be meant.
            for stream in streams:
                self._book.fail(stream, None, f.REFUSED_STREAM)
            return
        if len(streams) < len(self._book.streams) or not link.peer.alive:
            for stream in streams:
                self._book.fail(stream, _APP_GONE, f.INTERNAL_ERROR)
        self._owner.default_gone(orderly)

    def _failed(self, stream: Stream, reason: ResetReason, detail: str, reused: bool) -> None:
        """A laptop will not answer."""
        head, choice, kept = stream.head, stream.choice, stream.kept
        if head is None or choice is None or not choice.intercept:
            self._book.fail(stream, None, f.REFUSED_STREAM)
            return
        what = Remedy.ERROR
        if not stream.started and not stream.down.ended:
            what = remedy(choice, head.method, reason, kept is not None, reused and stream.tries < MAX_TRIES)
        if what is Remedy.ERROR:
            spoke = stream.link.peer.alive or reason is not ResetReason.RESET
            self._book.fail(stream, failure(choice, reason, detail) if spoke else _NO_HTTP2, f.INTERNAL_ERROR)
            return
        if what is Remedy.APP:
            stream.outcome = Outcome.FALLBACK
        self._again(stream)

    def _again(self, stream: Stream) -> None:
        items = list(stream.kept or ())
        self._book.leave(stream)
        self.place(stream, stream.number, items)
