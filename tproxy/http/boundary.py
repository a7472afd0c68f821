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
_FOLDED = re.compile(rb"\r\n[ \t]")
_PERSISTENCE = (b"keep-alive", b"close", b"")
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

    `lost` for good: something else than HTTP/1 is spoken, or nobody can tell where its messages end. If `ending`, the
    next answer to a client that waits for it tells the client that it is the `last` (RFC 9112 section 9.6).
    """

    def __init__(self, ending: bool = False) -> None:
        self.lost = False
        self.last = False
        self._ending = ending
        self._editable = False
        self._asked: deque[bytes] = deque()  # methods of requests that are not answered in full
        self._requests = _Messages(self._request)
        self._responses = _Messages(self._response, self._asked.popleft, self._edit)
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

    def answered(self, data: bytes) -> bytes:
        """The server has sent this; what to pass on."""
        return self._feed(self._responses, data)

    def _feed(self, messages: "_Messages", data: bytes) -> bytes:
        if self.lost:
            return data
        try:
            return messages.feed(data)
        except StrangeError:
            self.lost, self.last = True, False
            return data

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
        alone = len(self._asked) == 1 and self._requests.between
        self._editable = self._ending and alone and response.status >= 200
        if response.body is None and response.status >= 200:
            self._asked.popleft()
        return response.body

    def _edit(self, head: bytes) -> bytes:
        if not self._editable or _FOLDED.search(head):
            return head
        self.last = True
        return says_last(head)


def says_last(head: bytes) -> bytes:
    """A response's head that says that the connection ends with it."""
    lines = []
    for line in head.removesuffix(b"\r\n\r\n").split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"connection":
            others = [one for each in value.split(b",") if (one := each.strip()).lower() not in _PERSISTENCE]
            line = b"Connection: " + b", ".join(others) if any(others) else b""
        if line and name.lower() != b"keep-alive":
            lines.append(line)
    return b"\r\n".join((*lines, b"Connection: close\r\n\r\n"))


class _Messages:
    """The messages of one direction: `on_head` gets each head and says what body follows, `on_end` hears of its end.

    A head that comes as a whole may be changed by `edit`, just after; others are not waited for.
    """

    def __init__(
        self,
        on_head: Callable[[bytes], Body | None],
        on_end: Callable[[], object] = lambda: None,
        edit: Callable[[bytes], bytes] = lambda head: head,
    ) -> None:
        self._on_head = on_head
        self._on_end = on_end
        self._edit = edit
        self._head = b""
        self._body: Body | None = None

    @property
    def between(self) -> bool:
        return not self._head and self._body is None

    def feed(self, data: bytes) -> bytes:
        """What to pass on instead of `data`."""
        at = 0
        while at < len(data):
            if self._body is not None:
                at = self._body.take(data, at)
                if self._body.done:
                    self._body = None
                    self._on_end()
                continue
            before = self._head
            whole = before + data[at:]
            end = whole.find(b"\r\n\r\n", max(0, len(before) - 3)) + 4
            if end < 4:
                if len(whole) > MAX_HEAD:
                    raise StrangeError("a head without end")
                self._head = whole
                return data
            self._head = b""
            self._body = self._on_head(whole[:end])
            if not before:
                edited = self._edit(whole[:end])
                data = data[:at] + edited + data[at + end :]
                at += len(edited)
            else:
                at += end - len(before)
        return data
