"""How much futile work a client may cause."""

BURST = 2000.0
PER_SECOND = 1000.0


class Patience:
    """Streams that end before they are answered, or cannot be had: many are fine, a storm of them is not."""

    __slots__ = ("_left", "_since")

    def __init__(self) -> None:
        self._left = BURST
        self._since: float | None = None

    def spend(self, now: float) -> bool:
        """One more; false if that is too much. `now` in monotonic seconds."""
        if self._since is not None:
            self._left = min(BURST, self._left + (now - self._since) * PER_SECOND)
        self._since = now
        self._left -= 1
        return self._left >= 0
