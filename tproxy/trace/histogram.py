"""Durations counted by powers of two, as the kernel program counts them, and drawn for people."""

import itertools
from collections.abc import Sequence

_WIDTH = 40


def slot(microseconds: int) -> int:
    """Which slot counts it: 0 less than 1 µs, then [1, 2), [2, 4), [4, 8) …"""
    return microseconds.bit_length()


def quantile(slots: Sequence[int], part: float) -> int:
    """Microseconds that `part` of the durations (0 to 1) are below: a slot's upper end. 0 if there are none."""
    needed = sum(slots) * part
    for index, total in enumerate(itertools.accumulate(slots)):
        if total and total >= needed:
            return 1 << index
    return 0


def draw(slots: Sequence[int]) -> list[str]:
    """A line for each slot between the first and the last that counted any."""
    used = [index for index, count in enumerate(slots) if count]
    if not used:
        return []
    most, wide = max(slots), len(str(max(slots)))
    lines = []
    for index in range(used[0], used[-1] + 1):
        bar = "#" * -(-slots[index] * _WIDTH // most)
        lines.append(f"{_between(index):>17} {slots[index]:>{wide}} {bar}".rstrip())
    return lines


def _between(index: int) -> str:
    return f"{duration(1 << index >> 1 if index else 0)} - {duration(1 << index)}"


def duration(microseconds: int) -> str:
    """With the unit that leaves the fewest digits, of at most four: `512us`, `16ms`, `2.1s`."""
    if microseconds < 1000:
        return f"{microseconds}us"
    if microseconds < 1_000_000:
        return f"{microseconds / 1000:.3g}ms"
    return f"{microseconds / 1_000_000:.3g}s"
