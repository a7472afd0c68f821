"""Gets out of the way of a client that stayed connected through us after its intercept was left.

Its requests go to the app already. The next answer says that the connection ends with it, and so it does: a client that
heard it sends nothing more there, and its next connection is the app's own. Where an answer cannot say so, the
connection ends when no other request follows for a moment, as servers end those that have been kept for long enough.
"""

import asyncio
from collections.abc import Callable

from tproxy.http.boundary import Exchanges, begins_request
from tproxy.tunnel.splice import Splice

PAUSE_SECONDS = 0.25
"""A client that has a next request at hand sends it sooner."""

EAGER_AFTER_SECONDS = 30.0
"""A client that never pauses so long is not waited for any longer: the next answer is the last."""


Take = Callable[[asyncio.Transport, bytes], None]
"""Gets the client's transport and the beginning of a request."""


def end_between(splice: Splice, taker: Callable[[], Take | None]) -> None:
    """End `splice`, which is new, between two requests. What turns out not to be HTTP/1 goes on until it ends.

    `taker` is asked, whenever a request begins, whether somebody else shall have the client again.
    """
    _Ending(splice, taker)


class _Ending:
    """Listens on both sides."""

    def __init__(self, splice: Splice, taker: Callable[[], Take | None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._splice = splice
        self._taker = taker
        self._exchanges = Exchanges(ending=True)
        self._eager_at = self._loop.time() + EAGER_AFTER_SECONDS
        self._timer: asyncio.TimerHandle | None = None
        splice.client.listener = self._requested
        splice.app.filter = self._answered

    def _requested(self, data: bytes) -> bool:
        if self._exchanges.last:
            return True  # it has been told that nobody would answer, or is about to hear it, and asks elsewhere
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._exchanges.between and self._splice.app.connected and begins_request(data):
            take = self._taker()
            transport = self._splice.give_client() if take is not None else None
            if take is not None and transport is not None:
                take(transport, data)
                return True
        self._exchanges.requested(data)
        self._after()
        return False

    def _answered(self, data: bytes) -> bytes:
        data = self._exchanges.answered(data)
        self._after()
        return data

    def _after(self) -> None:
        if self._exchanges.lost:
            self._splice.client.listener = None
            if self._splice.app.filter == self._answered:
                self._splice.app.filter = None
        elif self._exchanges.between and self._timer is None:
            at_once = self._exchanges.last or self._loop.time() >= self._eager_at
            self._timer = self._loop.call_later(0 if at_once else PAUSE_SECONDS, self._splice.finish)
