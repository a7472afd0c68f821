"""Time that goes on while the laptop sleeps, and noticing that it did.

`time.monotonic()` stands still in sleep on Linux and on macOS, so nothing that uses it finds out. Linux offers
CLOCK_BOOTTIME; on macOS the clock named CLOCK_MONOTONIC is the one that counts sleep.
"""

import asyncio
import time
from collections.abc import Callable

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

TICK_SECONDS = 1.0
ASLEEP_SECONDS = 5.0
"""A tick later than this is a sleep (of the laptop, or of this process under SIGSTOP): tunnels may be dead."""


def seconds_since_boot() -> float:
    """Seconds since boot, sleep included."""
    return time.clock_gettime(_CLOCK)


async def watch_sleep(on_wake: Callable[[float], None]) -> None:
    """Call `on_wake` with the seconds slept, each time after it happened. Never returns."""
    last = seconds_since_boot()
    while True:
        await asyncio.sleep(TICK_SECONDS)
        now = seconds_since_boot()
        if now - last > TICK_SECONDS + ASLEEP_SECONDS:
            on_wake(now - last - TICK_SECONDS)
        last = now
