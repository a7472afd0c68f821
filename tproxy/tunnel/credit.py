"""How many bytes the peer may send: a window per connection that grows with the measured rate, out of one budget.

A window is the credit that the peer holds plus what it has sent and this side has not given back, so the sum of all
windows bounds the memory that one stream can occupy here, whatever the peer does.
"""

EARLY_CREDIT = 32 * 1024
"""What the opener may send before OPENED (fixed by the protocol)."""
MIN_WINDOW = EARLY_CREDIT
START_WINDOW = 256 * 1024
MAX_WINDOW = 4 * 1024 * 1024
BUDGET = 64 * 1024 * 1024
"""What all windows of a stream share beyond `MIN_WINDOW` for each."""

_LEAST_RTT = 0.002  # below this it is the loops' own latency that is measured, not the path's
_QUIET_SECONDS = 5.0


class Budget:
    """The bytes that the windows of one stream may still take beyond their minimum."""

    __slots__ = ("free",)

    def __init__(self, size: int = BUDGET) -> None:
        self.free = size

    def take(self, wanted: int) -> int:
        """Take up to `wanted` bytes, but never more than an eighth of what is left: late-comers find something too."""
        granted = min(wanted, self.free // 8)
        self.free -= granted
        return granted

    def give(self, size: int) -> None:
        """Return what `take` granted."""
        self.free += size


class Window:
    """What one connection may receive: `size` bytes, of which the peer holds `held` as credit, the sink has some,
    and `spent` are due to be given back. Sizes in bytes, times in seconds."""

    __slots__ = ("_budget", "_since", "due_at", "held", "size", "spent")

    def __init__(self, budget: Budget, now: float) -> None:
        self._budget = budget
        self._since = now
        self.size = self.held = MIN_WINDOW
        self.spent = 0
        self.due_at = MIN_WINDOW // 4
        """A grant is due when this much is spent: few CREDIT frames, and the peer never runs dry."""

    def widen(self) -> int:
        """Go from the first bytes to the ordinary start; returns the credit to give for it."""
        credit = self._budget.take(START_WINDOW - MIN_WINDOW)
        self._resize(credit)
        self.held += credit
        return credit

    @property
    def with_sink(self) -> int:
        """Bytes received which the sink has not consumed yet."""
        return self.size - self.held - self.spent

    def grant(self, now: float, rtt: float) -> int:
        """The credit to give now: what is spent, more if the window limits the rate, less if it is far too large.

        A window is used up once per round trip when it is the limit, so a quarter of it takes a quarter of a round
        trip; at twice that time the path is full and growing further would only fill queues.
        """
        elapsed = now - self._since
        self._since = now
        credit, self.spent = self.spent, 0
        if elapsed * 2 < max(rtt, _LEAST_RTT):
            grown = self._budget.take(min(self.size, MAX_WINDOW - self.size))
            self._resize(grown)
            credit += grown
        elif elapsed > _QUIET_SECONDS and self.size > START_WINDOW:
            excess = min(credit, self.size - START_WINDOW)
            self._budget.give(excess)
            self._resize(-excess)
            credit -= excess
        self.held += credit
        return credit

    def _resize(self, change: int) -> None:
        self.size += change
        self.due_at = self.size // 4

    def close(self) -> None:
        """Nothing more will be received, and nothing received is held any longer."""
        self._budget.give(self.size - MIN_WINDOW)
        self.size = MIN_WINDOW
