"""The beginning of a request whose rest has not come: what may be held back, and for how long."""

import re
from collections.abc import Callable

from tproxy.http.answers import END_OF_HEAD
from tproxy.http.head import MAX_HEAD, RequestReader

HOLD_SECONDS = 0.5
"""A request whose head stops arriving is shown to the default upstream after so long, which may care."""

MAX_LINE = 16 * 1024
"""Bytes of a request line that are held back: looking at it anew with each byte must not cost much."""

_BEGINNING = re.compile(
    rb"[A-Z\-]{1,32}+(?: (?:[!-~]++(?: (?:H(?:T(?:T(?:P(?:/(?:1(?:\.(?:[01]\r?)?)?)?)?)?)?)?)?)?)?)?"
)


def may_begin_request(data: bytes | bytearray) -> bool:
    """Whether `data` begins with a request line, or with what can become one."""
    if data.find(b"\n", 0, MAX_LINE) >= 0:
        return RequestReader.is_line(data)
    if len(data) >= MAX_LINE:
        return False
    found = _BEGINNING.match(data)
    return found is not None and found.end() == len(data)


class Undecided:
    """`bytes` of the client which nobody has been given, save for the first `shown` of them."""

    def __init__(self, held: Callable[[int], bool] = lambda size: True) -> None:
        """`held` is `Hop.held`."""
        self.shown = 0
        self._report = held
        self._room = True
        self.bytes = bytearray()

    def __len__(self) -> int:
        return len(self.bytes)

    def add(self, data: bytes) -> bool:
        """More of the same. True if there is a whole head in them now."""
        searched = max(len(self.bytes) - 3, 0)
        self.bytes += data
        self._room = self._report(len(self.bytes))
        return self.bytes.find(END_OF_HEAD, searched) >= 0

    def take(self) -> bytes:
        """All of them, to be decided or passed on."""
        data = bytes(self.bytes)
        if data:
            self.bytes.clear()
            self._report(0)
        return data

    def peek(self) -> bytes:
        """All of them, which stay."""
        return bytes(self.bytes)

    def unshown(self, data: bytes) -> bytes:
        """What the default upstream has not got of `data`, which begins where these bytes do, and is passed on now."""
        if not self.shown:
            return data
        cut = min(self.shown, len(data))
        self.shown -= cut
        return data[cut:]

    @property
    def promising(self) -> bool:
        """Whether they can become the head of a request."""
        held = self.bytes
        if len(held) >= MAX_HEAD or not self._room:
            return False
        return held == b"\r" or may_begin_request(held)
