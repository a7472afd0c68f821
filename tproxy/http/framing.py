"""Where the bodies of HTTP/1 messages end (RFC 9112, 6 and 7). Bodies are measured, never held or changed."""

import re
from typing import Protocol

MAX_LINE = 8 * 1024
"""Bytes of a chunk's size line, extensions included, or of one trailer field."""
MAX_TRAILERS = 64 * 1024

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15}+)(?:[ \t]*+;[^\r\n\0]*+)?+\r\n")
_FIELD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[^\r\n\0]*+\r\n")


class StrangeError(Exception):
    """These bytes can be read in more than one way, or in none: whoever they are for must see them as they came."""


class Body(Protocol):
    """The rest of a message, after its head."""

    @property
    def done(self) -> bool: ...

    def take(self, data: bytes, at: int) -> int:
        """Go on at `data[at]`: returns where the body ends, or `len(data)`. Raises `StrangeError`."""
        ...


class Sized:
    """A body of so many bytes."""

    __slots__ = ("_left",)

    def __init__(self, size: int) -> None:
        self._left = size

    @property
    def done(self) -> bool:
        return not self._left

    def take(self, data: bytes, at: int) -> int:
        size = min(self._left, len(data) - at)
        self._left -= size
        return at + size


class UntilClose:
    """A body that ends with its connection."""

    __slots__ = ()
    done = False

    def take(self, data: bytes, at: int) -> int:
        return len(data)


class Chunked:
    """A body in chunks, with its trailers."""

    __slots__ = ("_left", "_line", "_state", "_trailers", "done")

    def __init__(self) -> None:
        self.done = False
        self._state = self._size
        self._left = 0  # of this chunk's data
        self._line = b""  # what there is of a line
        self._trailers = 0

    def take(self, data: bytes, at: int) -> int:
        end = len(data)
        while at < end and not self.done:
            if self._left:
                size = min(self._left, end - at)
                self._left -= size
                at += size
                continue
            newline = data.find(b"\n", at, at + MAX_LINE)
            stop = end if newline < 0 else newline + 1
            self._line += data[at:stop]
            at = stop
            if len(self._line) > MAX_LINE:
                raise StrangeError("a line of a chunked body without end")
            if newline >= 0:
                line, self._line = self._line, b""
                self._state(line)
        return at

    def _size(self, line: bytes) -> None:
        found = _SIZE.fullmatch(line)
        if found is None:
            raise StrangeError("the size of a chunk")
        self._left = int(found[1], 16)
        self._state = self._end if self._left else self._trailer

    def _end(self, line: bytes) -> None:
        if line != b"\r\n":
            raise StrangeError("the end of a chunk")
        self._state = self._size

    def _trailer(self, line: bytes) -> None:
        if line == b"\r\n":
            self.done = True
            return
        self._trailers += len(line)
        if _FIELD.fullmatch(line) is None or self._trailers > MAX_TRAILERS:
            raise StrangeError("a trailer")
