"""What steering decided, as a trace shows it."""

import asyncio
from typing import Any

import pytest
from tproxy_node import flows as module
from tproxy_node.counts import PortCounts
from tproxy_node.debug.steered import Steered
from tproxy_node.flows import Flows
from tproxy_node.plan import PodRef

from tproxy.model.figures import Outcome
from tproxy.model.flow import Address
from tproxy.steer.port import Counters

WEB, OTHER = PodRef("shop", "web-1", "1"), PodRef("shop", "web-2", "2")
CLIENT = Address("10.0.0.9", 40000)


def of(port: int, kernel: Counters, pod: PodRef = WEB) -> PortCounts:
    return PortCounts(pod, port, "TCP", kernel, {})


def seen(steered: Steered) -> list[dict[str, Any]]:
    return list(steered.look(lambda uid: uid == "1"))


def left(steered: Steered) -> list[tuple[str, str, int]]:
    return [(one["local"], one["verdict"], one["count"]) for one in seen(steered)]


def test_what_the_kernel_left_to_the_app() -> None:
    now = [of(80, Counters(lease_expired=5))]
    steered = Steered(Flows(), lambda: now, 0)
    assert left(steered) == [], "that was before"
    now = [of(80, Counters(steered=7, lease_expired=6)), of(81, Counters(passed=1, no_listener=2))]
    assert left(steered) == [(":80", "lease_expired", 1), (":81", "no_listener", 2), (":81", "passed", 1)]
    assert left(steered) == []
    assert steered.total == 4


def test_only_what_is_wanted() -> None:
    now: list[PortCounts] = []
    flows = Flows()
    steered = Steered(flows, lambda: now, 80)
    assert left(steered) == []
    now = [of(80, Counters(passed=1)), of(81, Counters(passed=1)), of(80, Counters(passed=1), OTHER)]
    for pod, port in ((WEB, 81), (OTHER, 80)):
        flows.begin(pod, CLIENT, Address("10.0.0.1", port), "laptop", "intercept")
    assert left(steered) == [(":80", "passed", 1)]


def test_a_pod_that_is_attached_anew() -> None:
    now = [of(80, Counters(passed=9))]
    steered = Steered(Flows(), lambda: now, 0)
    left(steered)
    now = []
    assert left(steered) == []
    now = [of(80, Counters(passed=1))]
    assert left(steered) == [(":80", "passed", 1)]


def test_connections_and_requests() -> None:
    flows = Flows()
    steered = Steered(flows, lambda: (), 0)
    flow = flows.begin(WEB, CLIENT, Address("10.0.0.1", 80), "by-request", "personal")
    flows.request(flow, Outcome.PASSED, None, 200, 0.1)
    flow.over()
    first, second = seen(steered)
    assert (first["local"], first["remote"]) == ("10.0.0.1:80", "10.0.0.9:40000")
    assert (first["verdict"], first["reason"]) == ("by-request", "personal")
    assert (second["verdict"], second["reason"], second["intercept"]) == ("request", "passed", "")
    assert (first["namespace"], first["pod"]) == ("shop", "web-1")


def test_what_comes_too_fast_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FOLLOWED", 2)

    async def scenario() -> None:
        flows = Flows()
        steered = Steered(flows, lambda: (), 0)
        for _ in range(5):
            flows.begin(WEB, CLIENT, Address("10.0.0.1", 80), "laptop", "intercept")
        assert (len(seen(steered)), steered.total, steered.lost) == (2, 2, 3)
        steered.close()
        flows.begin(WEB, CLIENT, Address("10.0.0.1", 80), "laptop", "intercept")
        assert seen(steered) == []

    asyncio.run(scenario())
