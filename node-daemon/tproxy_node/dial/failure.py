"""Why something a laptop asked for cannot be: what its own client shall see, and a sentence for people."""

import os

from tproxy.model.flow import ResetReason
from tproxy.tunnel.bridge import reset_reason


class DialError(Exception):
    """`reason` goes into RESET, the text with it as detail."""

    def __init__(self, reason: ResetReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def from_os(error: OSError, what: str) -> DialError:
    """What a failed system call on the way to `what` means."""
    why = os.strerror(error.errno) if error.errno else "timed out"  # event loops put the address into `strerror`
    return DialError(reset_reason(error), f"{what}: {why}")
