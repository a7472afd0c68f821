"""Packets of several interfaces in the order of time."""

from hypothesis import given
from hypothesis import strategies as st

from tproxy.trace import ordered
from tproxy.trace.ordered import WAIT_NANOSECONDS, Ordered
from tproxy.trace.packets import Packet

NOW = 10**18


def packet(time: int, size: int = 1) -> Packet:
    return Packet(time, bytes(size), size, 0)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 100)), max_size=50))
def test_by_time_then_by_arrival(packets: list[tuple[int, int]]) -> None:
    one = Ordered()
    for interface, time in packets:
        one.add(interface, packet(time))
    found = [(interface, each.time) for interface, each in one.rest()]
    assert found == sorted(packets, key=lambda pair: pair[1])


def test_only_what_can_have_no_older_one() -> None:
    one = Ordered()
    one.add(0, packet(NOW - WAIT_NANOSECONDS + 1))
    one.add(1, packet(NOW - WAIT_NANOSECONDS))
    assert [interface for interface, _ in one.due(NOW)] == [1]
    assert [interface for interface, _ in one.due(NOW)] == []
    assert [interface for interface, _ in one.due(NOW + 1)] == [0]


def test_no_more_than_there_is_room_for() -> None:
    one = Ordered()
    for _ in range(5):
        one.add(0, packet(NOW, ordered.MAX_BYTES // 4))
    assert len(list(one.due(NOW))) == 1
    assert len(list(one.rest())) == 4
