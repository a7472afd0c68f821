"""Messages of a gRPC stream: each is preceded by whether it is compressed, and by its length. Sans-IO."""

import io
from collections.abc import Callable

from tproxy.http.h2.frames import PROTOCOL_ERROR, FaultError

PREFIX = 5
"""Bytes before a message."""

MAX_MESSAGE_BYTES = 4 * 1024 * 1024


class TooLongError(Exception):
    """A message is longer than `limit`; the call has to end with RESOURCE_EXHAUSTED."""


class Cutter:
    """Cuts what arrives, in pieces of any size, into messages for `on_message`."""

    def __init__(self) -> None:
        self.on_message: Callable[[bytes], None] = lambda _message: None
        self.limit = MAX_MESSAGE_BYTES
        """Of a message, in bytes."""

        self._prefix = b""  # as much of it as there is
        self._missing = 0  # bytes of the current message that are to come
        self._partial = io.BytesIO()

    def feed(self, data: bytes, at: int, stop: int) -> None:
        """What is between `at` and `stop`. Raises `FaultError` and `TooLongError`; nothing more may follow then."""
        while at < stop:
            if self._missing:
                part = memoryview(data)[at : min(stop, at + self._missing)]
                self._partial.write(part)
                self._missing -= len(part)
                at += len(part)
                if not self._missing:
                    message, self._partial = self._partial.getvalue(), io.BytesIO()
                    self.on_message(message)
                continue
            need = PREFIX - len(self._prefix)
            prefix = self._prefix + data[at : min(stop, at + need)]
            at += need
            if len(prefix) < PREFIX:
                self._prefix = prefix
                return
            self._prefix = b""
            if prefix[0]:
                raise FaultError(PROTOCOL_ERROR, "a compressed message")
            size = int.from_bytes(prefix[1:], "big")
            if size > self.limit:
                raise TooLongError
            if stop - at >= size:
                self.on_message(data[at : at + size])
                at += size
            else:
                self._missing = size
