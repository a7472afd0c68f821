"""When a listener counts as empty."""

from hypothesis import given
from hypothesis import strategies as st

from tproxy.steer.drain import Drain

A, B, C = b"a", b"b", b"c"
NONE: set[bytes] = set()


def results(*observations: tuple[set[bytes], int]) -> list[bool]:
    drain = Drain()
    return [drain.observe(handshakes, queued) for handshakes, queued in observations]


def test_nothing_to_wait_for_is_seen_twice() -> None:
    assert results((NONE, 0), (NONE, 0)) == [False, True]


def test_handshake_then_queue_then_accepted() -> None:
    assert results(({A}, 0), ({A}, 0), (NONE, 1), (NONE, 0), (NONE, 0)) == [False] * 4 + [True]


def test_between_handshake_and_queue_a_connection_is_nowhere() -> None:
    assert results(({A}, 0), ({A}, 0), (NONE, 0), (NONE, 1), (NONE, 0), (NONE, 0)) == [False] * 5 + [True]


def test_a_handshake_that_a_running_lookup_still_brought() -> None:
    assert results((NONE, 0), ({A}, 0), (NONE, 0), (NONE, 0)) == [False, False, False, True]


def test_later_handshakes_are_the_apps() -> None:
    assert results(({A}, 0), ({A}, 0), ({A, B}, 0), ({B, C}, 0), ({B, C}, 0)) == [False] * 4 + [True]


@given(st.lists(st.tuples(st.sets(st.sampled_from([A, B, C])), st.integers(0, 2)), max_size=20))
def test_never_done_while_something_may_come(observations: list[tuple[set[bytes], int]]) -> None:
    drain = Drain()
    early: set[bytes] = set()
    waiting: set[bytes] = set()
    for index, (handshakes, queued) in enumerate(observations):
        if index < 2:
            early |= handshakes
            waiting = set(early)
        waiting &= handshakes if index >= 2 else waiting
        if drain.observe(handshakes, queued):
            assert not waiting
            assert not queued
