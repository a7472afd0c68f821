"""Times and sizes in words."""

import pytest

from tproxy.text import units


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0s"),
        (0, "0s"),
        (59.9, "59s"),
        (60, "1m"),
        (61, "1m1s"),
        (599, "9m59s"),
        (600, "10m"),
        (3599, "59m"),
        (3600, "1h"),
        (3 * 3600 + 7 * 60 + 5, "3h7m"),
        (86399, "23h"),
        (86400 * 2 + 3600 * 5, "2d5h"),
        (86400 * 40, "40d"),
        (86400 * 400, "1y35d"),
    ],
)
def test_age(seconds: float, text: str) -> None:
    assert units.age(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.004, "0.00 s"), (0.42, "0.42 s"), (12.34, "12.3 s"), (125, "2m5s")])
def test_elapsed(seconds: float, text: str) -> None:
    assert units.elapsed(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.00035, "0.35ms"), (0.0012, "1.2ms"), (0.00996, "10ms"), (0.012, "12ms"), (0.9994, "999ms"), (1.23, "1.2s")],
)
def test_latency(seconds: float, text: str) -> None:
    assert units.latency(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0B"),
        (1023, "1023B"),
        (1024, "1.0KiB"),
        (1536, "1.5KiB"),
        (10240, "10KiB"),
        (1024 * 1024 - 1, "1.0MiB"),
        (20 << 20, "20MiB"),
        (3 << 50, "3072TiB"),
    ],
)
def test_size(count: int, text: str) -> None:
    assert units.size(count) == text
