"""Why something a laptop asked for cannot be: what its own client shall see, and a sentence for people."""

from tproxy.model.flow import ResetReason
from tproxy.tunnel.bridge import reset_reason


class DialError(Exception):
    """`reason` goes into RESET, the text with it as detail."""

    def __init__(self, reason: ResetReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def from_os(error: OSError, what: str) -> DialError:
    """What a failed system call on the way to `what` means."""
    return DialError(reset_reason(error), f"{what}: {error.strerror or 'timed out'}")
