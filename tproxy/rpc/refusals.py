"""Says once who was refused and why, however often they try."""

import logging
import time
from collections.abc import Callable

QUIET_SECONDS = 60.0
MAX_REMEMBERED = 256


class RefusalLog:
    """One warning per peer host and reason, again after a minute with the number of refusals in between."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}

    def note(self, peer: str, reason: str) -> None:
        """A `peer` (`ipv4:127.0.0.1:41234`, as gRPC writes it) was refused."""
        host = peer.rpartition(":")[0] or peer
        now = self._clock()
        key = (host, reason)
        last, unsaid = self._seen.pop(key, (float("-inf"), 0))
        if now - last < QUIET_SECONDS:
            self._seen[key] = (last, unsaid + 1)
            return
        self._log.warning("tunnel refused", extra={"peer": host, "reason": reason, "unsaid": unsaid})
        if len(self._seen) >= MAX_REMEMBERED:
            self._seen.pop(next(iter(self._seen)))
        self._seen[key] = (now, 0)
