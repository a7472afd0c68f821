"""Follows the answers of one HTTP/1 connection: which request each belongs to, and where it ends."""

from collections import deque
from collections.abc import Callable

from tproxy.http.exchange import Exchange
from tproxy.http.framing import StrangeError, UntilClose
from tproxy.http.head import MAX_HEAD, ResponseReader

END_OF_HEAD = b"\r\n\r\n"


class Answers:
    """`pending` are the requests without a complete answer, in order; `on_answered` hears of each that has one."""

    def __init__(self, on_answered: Callable[[Exchange], None]) -> None:
        self.pending: deque[Exchange] = deque()
        self.switched = False
        """The first of `pending` has got its way: what follows is not HTTP/1 any more."""
        self._on_answered = on_answered
        self._reader = ResponseReader()
        self._head = bytearray()  # of an answer, as far as it has come

    def read(self, data: bytes) -> int:
        """Follow the answers in `data`; returns where what was asked for ends. Raises `StrangeError`."""
        earlier = len(self._head)
        if earlier:
            self._head += data
            if self._head.find(END_OF_HEAD, max(earlier - 3, 0)) < 0 and len(self._head) < MAX_HEAD:
                return len(data)
            data = bytes(self._head)
            self._head.clear()
        at, end, pending = 0, len(data), self.pending
        while at < end and pending and not self.switched:
            exchange = pending[0]
            body = exchange.body
            if body is None:
                stop = data.find(END_OF_HEAD, at, at + MAX_HEAD)
                if stop < 0:
                    self._begin(exchange, data[at:])
                    return end - earlier
                stop += 4
                self._read_head(exchange, data[at:stop])
                at = stop
            else:
                at = body.take(data, at)
                if body.done:
                    self._complete(exchange)
        return at - earlier

    def end(self) -> bool:
        """The connection ends: true if that is how the answer under way ends."""
        if not self.pending or not isinstance(self.pending[0].body, UntilClose):
            return False
        self._complete(self.pending[0])
        return True

    def _begin(self, exchange: Exchange, part: bytes) -> None:
        exchange.started = True
        if len(part) >= MAX_HEAD:
            raise StrangeError("a head without end")
        self._head += part

    def _read_head(self, exchange: Exchange, head: bytes) -> None:
        exchange.started = True
        request = exchange.request
        answer = self._reader.read(head, request.method)
        status = answer.status
        if status < 200 and status != 101:
            return  # another head follows
        exchange.status = status
        exchange.persistent = request.persistent and answer.persistent
        if request.upgrade and (status == 101 or (request.upgrade == b"connect" and status < 300)):
            self.switched = True
            return
        request.upgrade = b""
        exchange.body = answer.body
        if answer.body is None:
            self._complete(exchange)

    def _complete(self, exchange: Exchange) -> None:
        exchange.answered = True
        exchange.body = None
        self.pending.popleft()
        self._on_answered(exchange)
