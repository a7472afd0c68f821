"""Gets out of the way of a client that stayed connected through us after its intercept was left.

Its requests go to the app already. When the last one has been answered and no other follows for a moment, the
connection ends in order, as servers end those that have been kept for long enough; the client's next one is the app's.
"""

import asyncio

from tproxy.http.boundary import Exchanges
from tproxy.tunnel.splice import Splice

PAUSE_SECONDS = 0.25
"""A client that has a next request at hand sends it sooner."""

EAGER_AFTER_SECONDS = 30.0
"""A client that never pauses so long is not waited for any longer: the next answer is the last."""


def end_between(splice: Splice) -> None:
    """End `splice`, which is new, between two requests. What turns out not to be HTTP/1 goes on until it ends."""
    _Ending(splice)


class _Ending:
    """Listens on both sides."""

    def __init__(self, splice: Splice) -> None:
        self._loop = asyncio.get_running_loop()
        self._splice = splice
        self._exchanges = Exchanges()
        self._eager_at = self._loop.time() + EAGER_AFTER_SECONDS
        self._timer: asyncio.TimerHandle | None = None
        splice.client.listener = self._requested
        splice.app.listener = self._answered

    def _requested(self, data: bytes) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._exchanges.requested(data)
        self._after()

    def _answered(self, data: bytes) -> None:
        self._exchanges.answered(data)
        self._after()

    def _after(self) -> None:
        if self._exchanges.lost:
            self._splice.client.listener = self._splice.app.listener = None
        elif self._exchanges.between and self._timer is None:
            pause = PAUSE_SECONDS if self._loop.time() < self._eager_at else 0
            self._timer = self._loop.call_later(pause, self._splice.finish)
