"""Keeps the steering lease alive, from the very loop that serves connections.

If that loop hangs, is stopped or starves, the lease runs out in the kernel and new connections reach the apps: nothing
else may renew it, no thread and no other process.
"""

import asyncio

from tproxy.steer.port import Steering

PERIOD_SECONDS = 0.5
AHEAD_SECONDS = 1.5


class Lease:
    """Renews from construction until `close`."""

    def __init__(self, steering: Steering) -> None:
        self._steering = steering
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time()
        self.worst_delay = 0.0  # seconds by which a renewal was late, at most: close to 1.0 the apps serve themselves
        self._timer = self._loop.call_soon(self._renew)
        self._steering.renew(AHEAD_SECONDS)

    def _renew(self) -> None:
        now = self._loop.time()
        self.worst_delay = max(self.worst_delay, now - self._due)
        self._steering.renew(AHEAD_SECONDS)
        self._due = now + PERIOD_SECONDS
        self._timer = self._loop.call_at(self._due, self._renew)

    def close(self) -> None:
        """Renew no more."""
        self._timer.cancel()
