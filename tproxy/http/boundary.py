"""Where one HTTP/1 message ends and the next begins (RFC 9112); pure, no sockets."""

import re
from collections import deque
from collections.abc import Callable, Iterable

from tproxy.http.framing import Body, StrangeError
from tproxy.http.head import MAX_HEAD, RequestReader, ResponseReader

MAX_ASKED = 1024
"""Requests sent without waiting for answers that are followed."""

_REQUEST_LINE = re.compile(rb"[A-Z]{3,7} [^\x00-\x20\x7f]{1,8000} HTTP/1\.[01]\r?\n")
_HEADER_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:|\r?\n|[!#$%&'*+.^_`|~0-9A-Za-z-]*\Z|\r?\Z")
_LENGTH = re.compile(rb"(?i:\ncontent-length):[ \t]*([0-9]{1,15})[ \t]*(?:\r|\Z)")
_CODING = re.compile(rb"(?i:\ntransfer-encoding|\ncontent-length):")


def begins_request(data: bytes | bytearray) -> bool:
    """Whether `data` begins like an HTTP/1 request: with a request line, and then a header or the empty line."""
    line = _REQUEST_LINE.match(data)
    return line is not None and _HEADER_LINE.match(data, line.end()) is not None


def is_whole(data: bytes | bytearray) -> bool:
    """Whether what begins like a request, and is one, is complete; False also where that is hard to tell."""
    head, end, body = data.partition(b"\r\n\r\n")
    if not end:
        return False
    sizes = _LENGTH.findall(head)
    if not sizes:
        return _CODING.search(head) is None
    return len(sizes) == 1 and len(body) >= int(sizes[0])


class Exchanges:
    """Follows a connection from its beginning, or from the beginning of a request, to know when nothing is under way.

    `lost` for good: something else than HTTP/1 is spoken, or nobody can tell where its messages end.
    """

    def __init__(self) -> None:
        self.lost = False
        self._asked: deque[bytes] = deque()  # methods of requests that are not answered in full
        self._requests = _Messages(self._request)
        self._responses = _Messages(self._response, self._asked.popleft)
        self._reader = RequestReader()

    @property
    def asked(self) -> Iterable[bytes]:
        """The methods of requests that are not answered in full."""
        return self._asked

    @property
    def between(self) -> bool:
        """Whether every request has been answered, and no other one has begun."""
        return not self.lost and not self._asked and self._requests.between and self._responses.between

    def requested(self, data: bytes) -> None:
        """The client has sent this."""
        self._feed(self._requests, data)

    def answered(self, data: bytes) -> None:
        """The server has sent this."""
        self._feed(self._responses, data)

    def _feed(self, messages: "_Messages", data: bytes) -> None:
        if self.lost:
            return
        try:
            messages.feed(data)
        except StrangeError:
            self.lost = True

    def _request(self, head: bytes) -> Body | None:
        request = self._reader.read(head, frozenset())
        if request.method == b"CONNECT" or len(self._asked) >= MAX_ASKED:
            raise StrangeError("what follows may be anything")
        self._asked.append(request.method)
        return request.body

    def _response(self, head: bytes) -> Body | None:
        if not self._asked:
            raise StrangeError("an answer to nothing")
        response = ResponseReader().read(head, self._asked[0])
        if response.status == 101:
            raise StrangeError("another protocol")
        if response.body is None and response.status >= 200:
            self._asked.popleft()
        return response.body


class _Messages:
    """The messages of one direction: `on_head` gets each head and says what body follows, `on_end` hears of its end."""

    def __init__(self, on_head: Callable[[bytes], Body | None], on_end: Callable[[], object] = lambda: None) -> None:
        self._on_head = on_head
        self._on_end = on_end
        self._head = b""
        self._body: Body | None = None

    @property
    def between(self) -> bool:
        return not self._head and self._body is None

    def feed(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            if self._body is not None:
                at = self._body.take(data, at)
                if self._body.done:
                    self._body = None
                    self._on_end()
                continue
            data, at = self._head + data[at:], 0
            end = data.find(b"\r\n\r\n", max(0, len(self._head) - 3)) + 4
            self._head = b""
            if end < 4:
                if len(data) > MAX_HEAD:
                    raise StrangeError("a head without end")
                self._head = data
                return
            self._body = self._on_head(data[:end])
            at = end
