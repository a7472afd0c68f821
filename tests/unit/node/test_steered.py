"""What steering decided, from counters that only grow."""

from collections.abc import Mapping

from tproxy_node.counts import PortCounts
from tproxy_node.debug.steered import Steered
from tproxy_node.plan import PodRef

from tproxy.steer.port import Counters


def of(port: int, kernel: Counters, to_app: Mapping[str, int] | None = None, uid: str = "1") -> PortCounts:
    return PortCounts(PodRef("shop", "web-1", uid), port, "TCP", kernel, to_app or {})


def look(steered: Steered) -> list[tuple[str, str, int]]:
    return [(one["local"], one["verdict"], one["count"]) for one in steered.look(lambda uid: uid == "1")]


def test_only_what_is_new() -> None:
    now = [of(80, Counters(steered=5))]
    steered = Steered(lambda: now, 0)
    assert look(steered) == [], "that was before"
    now = [of(80, Counters(steered=7, lease_expired=1)), of(81, Counters(passed=1), {"probe": 2})]
    assert look(steered) == [
        (":80", "steered", 2),
        (":80", "lease_expired", 1),
        (":81", "passed", 1),
        (":81", "app_probe", 2),
    ]
    assert look(steered) == []
    assert steered.total == 6


def test_only_what_is_wanted() -> None:
    now: list[PortCounts] = []
    steered = Steered(lambda: now, 80)
    assert look(steered) == []
    now = [of(80, Counters(own=1)), of(81, Counters(own=1)), of(80, Counters(own=1), uid="2")]
    assert look(steered) == [(":80", "own", 1)]


def test_a_pod_that_is_attached_anew() -> None:
    now = [of(80, Counters())]
    steered = Steered(lambda: now, 0)
    look(steered)
    now = []
    assert look(steered) == []
    now = [of(80, Counters(steered=1))]
    assert look(steered) == [(":80", "steered", 1)]
