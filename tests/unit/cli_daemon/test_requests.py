"""Requests of the command line: nonsense is refused with a sentence, the rest is read as meant."""

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tproxy_cli.daemon.requests import CompleteRequest, InterceptRequest, LeaveRequest, ListRequest, Where

from tproxy.errors import InvalidError
from tproxy.model.conditions import Asked
from tproxy.model.workload import PortMapping, TargetQuery

GOOD: dict[str, Any] = {
    "cluster": {"kubeconfig": "/k", "context": None, "namespace": "shop"},
    "target": "deploy/web",
    "ports": ["3000:http", "4000"],
    "onDisconnect": "fail",
    "probes": "laptop",
    "existing": "reset",
    "drainSeconds": 7,
    "timeoutSeconds": 5,
}


def test_an_intercept_is_read() -> None:
    request = InterceptRequest.of(GOOD)
    assert request == InterceptRequest(
        where=Where("/k", None, "shop"),
        target=TargetQuery("Deployment", "web"),
        ports=(PortMapping(3000, "http"), PortMapping(4000)),
        asked=Asked(None),
        on_disconnect="fail",
        on_refused="fail",
        probes="laptop",
        timeout=5.0,
        existing="reset",
        drain_seconds=7,
    )


@pytest.mark.parametrize(
    "change",
    [
        {"ports": "3000"},
        {"ports": [3000]},
        {"ports": ["x"]},
        {"target": None},
        {"target": "a/b/c"},
        {"onDisconnect": "maybe"},
        {"probes": "node"},
        {"existing": "all"},
        {"drainSeconds": -1},
        {"drainSeconds": 3601},
        {"drainSeconds": True},
        {"timeoutSeconds": 0},
        {"timeoutSeconds": -1},
        {"timeoutSeconds": float("nan")},
        {"timeoutSeconds": float("inf")},
        {"timeoutSeconds": True},
        {"timeoutSeconds": "5"},
        {"cluster": "lab"},
        {"cluster": {"namespace": 5}},
    ],
)
def test_nonsense_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidError):
        InterceptRequest.of({**GOOD, **change})


def test_leave_means_names_or_all() -> None:
    assert LeaveRequest.of({"names": ["web"]}).names == ("web",)
    assert LeaveRequest.of({"all": True}).all
    for body in ({}, {"names": ["web"], "all": True}, {"names": []}):
        with pytest.raises(InvalidError):
            LeaveRequest.of(body)


def test_completion_knows_three_things() -> None:
    assert CompleteRequest.of({"what": "workloads"}).prefix == ""
    with pytest.raises(InvalidError):
        CompleteRequest.of({"what": "passwords"})


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(body=st.fixed_dictionaries({}, optional={name: _json for name in (*GOOD, "names", "all", "what", "prefix")}))
def test_any_json_is_read_or_refused(body: dict[str, Any]) -> None:
    for kind in (InterceptRequest, LeaveRequest, ListRequest, CompleteRequest):
        with contextlib.suppress(InvalidError):
            kind.of(body)
