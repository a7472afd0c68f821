"""Heads of HTTP/1 messages, as strictly as can be: what is not plainly one thing raises `StrangeError`.

llhttp (through httptools) judges the head as a whole, without telling its fields, which takes well under a microsecond;
of the fields only those are then looked for that somebody asked for. Telling all of them took three times as long.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import httptools

from tproxy.http.framing import Body, Chunked, Sized, StrangeError, UntilClose
from tproxy.http.port import Field

MAX_HEAD = 128 * 1024
"""Bytes. Servers take no more than 8 to 64 KiB; what is longer goes to the app untouched."""

FRAMING = frozenset((b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"expect"))

_LINE = re.compile(rb"([A-Z\-]{1,32}+) ([^ \r\n]++) HTTP/1\.([01])\r\n")
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})[ \r]")
_H2C = re.compile(rb"(?i:\r\n(?:upgrade|http2-settings):)[^\r\n]*+")


@lru_cache(64)
def _finder(names: frozenset[bytes]) -> re.Pattern[bytes]:
    wanted = b"|".join(re.escape(name) for name in sorted(names | FRAMING))
    return re.compile(rb"(?i:\n(" + wanted + rb"):)[ \t]*+([^\r\n]*+)")


@dataclass(slots=True)
class RequestHead:
    """`fields` are those asked for and the ones that frame the message. `body` is None if there is none."""

    method: bytes
    target: bytes
    fields: list[Field]
    body: Body | None
    persistent: bool
    upgrade: bytes = b""
    """The protocols offered, in lower case, or `connect`; empty: none."""
    expects: bool = False


@dataclass(slots=True)
class ResponseHead:
    """`body` is None if there is none. A status of 1xx means that another head follows, except for 101."""

    status: int
    body: Body | None
    persistent: bool


def without_h2c(head: bytes) -> bytes:
    """A request's head without its offer to go on with HTTP/2."""
    return _H2C.sub(b"", head)


class RequestReader:
    """Reads the heads of one connection's requests."""

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(None)

    @staticmethod
    def is_line(data: bytes | bytearray) -> bool:
        """Whether a complete request line is at the beginning."""
        return _LINE.match(data) is not None

    def read(self, head: bytes, names: frozenset[bytes]) -> RequestHead:
        """A complete head, to its empty line. Raises `StrangeError`."""
        line = _LINE.match(head)
        if line is None:
            raise StrangeError("not a request line")
        method, target, version = line.groups()
        parser = self._parser
        upgrade = False
        try:
            parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            upgrade = True
        except httptools.HttpParserError as error:
            raise StrangeError(str(error)) from None
        fields = [(name.lower(), value.rstrip(b" \t")) for name, value in _finder(names).findall(head)]
        found = RequestHead(method, target, fields, None, True)
        if fields or upgrade or version == b"0":
            found.persistent = _persistent(fields, version)
            _frame(found, version, upgrade)
            if found.body is not None or upgrade:
                self._parser = httptools.HttpRequestParser(None)  # this one waits for the body
        return found


def _persistent(fields: Iterable[Field], version: bytes) -> bool:
    """Whether the connection goes on behind this message (RFC 9112, 9.3)."""
    options = {
        option.strip(b" \t").lower() for name, value in fields if name == b"connection" for option in value.split(b",")
    }
    return b"close" not in options and (version == b"1" or b"keep-alive" in options)


def _frame(head: RequestHead, version: bytes, upgrade: bool) -> None:
    for name, value in head.fields:
        if name == b"content-length":
            size = int(value)
            head.body = Sized(size) if size else None
        elif name == b"transfer-encoding":
            if value.lower() != b"chunked" or version == b"0" or head.body is not None:
                raise StrangeError("a transfer coding other than chunked")
            head.body = Chunked()
        elif name == b"upgrade" and upgrade:
            head.upgrade = value.lower()
        elif name == b"expect":
            head.expects = True
    if head.method == b"CONNECT":
        if head.body is not None:
            raise StrangeError("a CONNECT with a body")
        head.upgrade = b"connect"


class ResponseReader:
    """Reads the heads of responses."""

    def read(self, head: bytes, method: bytes) -> ResponseHead:
        """A complete head, to its empty line, of an answer to `method`. Raises `StrangeError`."""
        line = _STATUS.match(head)
        if line is None:
            raise StrangeError("not a status line")
        status = int(line[2])
        parser = httptools.HttpResponseParser(None)
        try:
            parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError as error:
            raise StrangeError(str(error)) from None
        fields = [(name.lower(), value.rstrip(b" \t")) for name, value in _finder(frozenset()).findall(head)]
        found = ResponseHead(status, UntilClose(), _persistent(fields, line[1]))
        _measure(found, fields, line[1])
        if method == b"HEAD" or status < 200 or status in (204, 304):
            found.body = None
        if isinstance(found.body, UntilClose):
            found.persistent = False
        return found


def _measure(head: ResponseHead, fields: Iterable[Field], version: bytes) -> None:
    for name, value in fields:
        if name == b"content-length":
            size = int(value)
            head.body = Sized(size) if size else None
        elif name == b"transfer-encoding":
            if value.lower() != b"chunked" or version == b"0":
                raise StrangeError("a transfer coding other than chunked")
            head.body = Chunked()
