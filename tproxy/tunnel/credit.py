"""How many bytes a peer may send: a window per connection that grows with the measured rate, out of one budget.

A window is the credit that a peer holds plus what it sent and our side has not consumed yet, so the sum of all
windows bounds the memory that one stream can occupy here, whatever the peer does.
"""

EARLY_CREDIT = 32 * 1024
"""What the opener may send before OPENED (fixed by the protocol)."""
MIN_WINDOW = EARLY_CREDIT
START_WINDOW = 256 * 1024
MAX_WINDOW = 4 * 1024 * 1024
BUDGET = 64 * 1024 * 1024
"""What all windows of a stream share beyond `MIN_WINDOW` for each."""

_GROW_WITHIN_RTTS = 3
_MIN_RTT = 0.002  # below this the loop's own latency is measured, not the path's


class Budget:
    """The bytes that windows of one stream may still take beyond their minimum."""

    def __init__(self, size: int = BUDGET) -> None:
        self.free = size

    def take(self, wanted: int) -> int:
        """Take up to `wanted` bytes, never more than an eighth of what is left: late-comers find something too."""
        granted = min(wanted, self.free // 8)
        self.free -= granted
        return granted

    def give(self, size: int) -> None:
        """Return what `take` granted."""
        self.free += size


class Window:
    """What one connection may receive. All sizes in bytes, times in seconds."""

    __slots__ = ("_budget", "_consumed", "_since", "held", "size")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.size = MIN_WINDOW + budget.take(START_WINDOW - MIN_WINDOW)
        self.held = self.size  # credit in the peer's hands
        self._consumed = 0  # not yet given back as credit
        self._since = 0.0

    def received(self, size: int) -> bool:
        """The peer sent `size` bytes; false when it had no credit for them."""
        self.held -= size
        return self.held >= 0

    def consumed(self, size: int) -> bool:
        """Our side is done with `size` bytes; true when it is time to `grant` credit."""
        self._consumed += size
        return self._consumed * 4 >= self.size

    def grant(self, now: float, rtt: float) -> int:
        """The credit to give now. Grows the window when a good part of it was used within a few round trips."""
        elapsed = now - self._since
        self._since = now
        size = self._consumed
        self._consumed = 0
        if self.size < MAX_WINDOW and elapsed < _GROW_WITHIN_RTTS * max(rtt, _MIN_RTT):
            grown = self._budget.take(min(self.size, MAX_WINDOW - self.size))
            self.size += grown
            size += grown
        self.held += size
        return size

    def close(self) -> None:
        """The connection is over."""
        self._budget.give(self.size - MIN_WINDOW)
        self.size = MIN_WINDOW
