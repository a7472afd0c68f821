"""Durations by powers of two."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tproxy.trace import histogram


@given(st.integers(0, 2**39 - 1))
def test_each_duration_is_between_its_slot_s_ends(microseconds: int) -> None:
    slot = histogram.slot(microseconds)
    assert (1 << slot) // 2 <= microseconds < 1 << slot


@given(st.lists(st.integers(0, 2**30), min_size=1), st.floats(0.01, 1))
def test_quantiles_are_upper_ends(durations: list[int], part: float) -> None:
    slots = [0] * 40
    for one in durations:
        slots[histogram.slot(one)] += 1
    bound = histogram.quantile(slots, part)
    assert sum(one < bound for one in durations) >= len(durations) * part
    assert sum(one < bound // 2 for one in durations) < len(durations) * part


def test_nothing_counted() -> None:
    assert histogram.quantile([0] * 40, 0.5) == 0
    assert histogram.draw([0] * 40) == []


def test_drawn() -> None:
    assert histogram.draw([1, 0, 40, 3, 0]) == [
        "        0us - 1us  1 #",
        "        1us - 2us  0",
        "        2us - 4us 40 ########################################",
        "        4us - 8us  3 ###",
    ]


@pytest.mark.parametrize(
    ("microseconds", "text"), [(0, "0us"), (512, "512us"), (1024, "1.02ms"), (262144, "262ms"), (2**21, "2.1s")]
)
def test_units(microseconds: int, text: str) -> None:
    assert histogram.duration(microseconds) == text
