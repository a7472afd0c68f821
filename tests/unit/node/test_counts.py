"""Counts of ports side by side."""

from tproxy_node import counts
from tproxy_node.counts import PortCounts
from tproxy_node.plan import PodRef

from tproxy.steer.port import Counters


def of(port: int, kernel: Counters, pod: str = "web-1") -> PortCounts:
    return PortCounts(PodRef("shop", pod, f"uid of {pod}"), port, "TCP", kernel, {})


def test_totals() -> None:
    totals = counts.verdicts([of(80, Counters(steered=1, own=2)), of(81, Counters(steered=3, passed=4))])
    assert totals == {"steered": 4, "own": 2, "passed": 4, "lease_expired": 0, "no_listener": 0}


def test_few_enough_for_a_time_series_database() -> None:
    many = [of(port, Counters(), pod) for port in range(300) for pod in ("web-2", "web-1")]
    shown = list(counts.shown(many))
    assert len(shown) == counts.MAX_PORTS
    assert [one.pod.name for one in shown[:300]] == ["web-1"] * 300, "whole pods, the same ones each time"
