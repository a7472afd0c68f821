"""Keeps the steering lease alive, from the very loop that serves connections.

If that loop hangs, is stopped or starves, the lease runs out in the kernel and new connections reach the apps: nothing
else may renew it, no thread and no other process.
"""

import asyncio
from typing import Protocol

PERIOD_SECONDS = 0.5
AHEAD_SECONDS = 1.5


class Renewed(Protocol):
    """What lives by the lease."""

    def renew(self, seconds: float) -> None:
        """Go on for so much longer."""
        ...


class Lease:
    """Renews from construction until `close`."""

    def __init__(self, *renewed: Renewed) -> None:
        self._renewed = renewed
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time()
        self.worst_delay = 0.0  # seconds by which a renewal was late, at most: close to 1.0 the apps serve themselves
        self._timer = self._loop.call_soon(self._renew)
        self._renew_all()

    def _renew(self) -> None:
        now = self._loop.time()
        self.worst_delay = max(self.worst_delay, now - self._due)
        self._renew_all()
        self._due = now + PERIOD_SECONDS
        self._timer = self._loop.call_at(self._due, self._renew)

    def _renew_all(self) -> None:
        for one in self._renewed:
            one.renew(AHEAD_SECONDS)

    def close(self) -> None:
        """Renew no more."""
        self._timer.cancel()
