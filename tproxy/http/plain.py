"""Knows the plainest of messages at a glance: most of what passes by on a shared port.

A plain message is all there, alone, and not about the connection. What is not plain is not wrong: it takes the longer
way through `tproxy.http.head`, which comes to the same decisions.
"""

import re
from functools import lru_cache

import httptools

from tproxy.http.framing import StrangeError
from tproxy.http.port import Buffer

MAX_PLAIN = 64 * 1024
"""Longer ones are not looked at here."""

_LINE = re.compile(rb"(?:GET|POST|PUT|DELETE|PATCH|OPTIONS) /[!-~]*+ HTTP/1\.1\r\n")
_TELLING = ("transfer-encoding", "connection(?!: keep-alive\r)", "upgrade", "expect")
_END = re.compile(rb"\n(?:(\r\n)|[tT](?i:ransfer-encoding)(?!: chunked\r))")
"""The end of a head (group 1), or before that a transfer coding other than chunked."""
_BEGUN, _DONE = 1, 1 << 16


@lru_cache(64)
def _finder(names: frozenset[bytes]) -> re.Pattern[bytes]:
    """Finds a field that says more than where a message ends, or that has one of these names."""
    words = [*_TELLING, *(re.escape(name.decode("latin-1")) for name in sorted(names))]
    initials = "".join(sorted({word[0].lower() for word in words} | {word[0].upper() for word in words}))
    return re.compile(f"\n[{re.escape(initials)}](?i:{'|'.join(word[1:] for word in words)}):".encode("latin-1"))


class _Count:
    """Of messages that have begun and ended."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def on_message_begin(self) -> None:
        self.count += _BEGUN

    def on_message_complete(self) -> None:
        self.count += _DONE


class PlainMessages:
    """Both directions of one connection."""

    def __init__(self) -> None:
        self._count = _Count()
        self._requests = httptools.HttpRequestParser(self._count)
        self._answers = httptools.HttpResponseParser(self._count)
        self._names: frozenset[bytes] = frozenset()
        self._telling = _finder(self._names)

    def request(self, data: bytes, names: frozenset[bytes]) -> bool:
        """Whether `data` is exactly one plain request without a field of these names. HEAD is never plain."""
        if _LINE.match(data) is None or len(data) > MAX_PLAIN:
            return False
        if names is not self._names:
            self._names, self._telling = names, _finder(names)
        if self._telling.search(data) is not None:
            return False
        count = self._count
        count.count = 0
        try:
            self._requests.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            count.count = 0
        if count.count == _BEGUN + _DONE:
            return True
        self._requests = httptools.HttpRequestParser(count)
        return False

    def answer(self, data: bytes) -> int:
        """The status, if `data` is exactly one plain answer to a plain request; else 0."""
        if len(data) > MAX_PLAIN or not data.startswith(b"HTTP/1.1 "):
            return 0
        end = _END.search(data)
        if end is None or end.lastindex is None:
            return 0
        count, parser = self._count, self._answers
        count.count = 0
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            count.count = 0
        if count.count == _BEGUN + _DONE and (status := int(parser.get_status_code())) >= 200:
            return status
        self._answers = httptools.HttpResponseParser(count)
        return 0


class PlainAnswers:
    """The answers to plain requests, however they are cut."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._under_way = 0
        self._final = 0

    def on_message_begin(self) -> None:
        self._under_way += 1

    def on_message_complete(self) -> None:
        self._under_way -= 1
        self._final += self._parser.get_status_code() >= 200

    def feed(self, data: Buffer) -> bool:
        """Whether the answer to the one request under way is complete with `data`. Raises `StrangeError`."""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            raise StrangeError(str(error)) from None
        final, self._final = self._final, 0
        if final > 1 or (final and self._under_way):
            raise StrangeError("an answer to nothing")
        return final == 1
