"""Built-in objects of any shape are either refused or such that controllers and tables can rely on them."""

import contextlib
import copy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tproxy.errors import TproxyError
from tproxy.kube.port import CONFIGMAPS, DEPLOYMENTS, ENDPOINTSLICES, NODES, PODS, SERVICES, Object, Resource
from tproxy.lab.api import admission
from tproxy.lab.api.resources import builtin_kinds
from tproxy.lab.api.store import Store
from tproxy.lab.api.table import table
from tproxy.lab.controllers import loop

LABELS = {"app": "web"}
CONTAINER = {"name": "c", "ports": [{"name": "http", "containerPort": 80, "protocol": "TCP"}]}
OWNER = {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": True}
GOOD: list[tuple[Resource, Object]] = [
    (PODS, {"spec": {"containers": [CONTAINER], "nodeSelector": {"a": "b"}, "terminationGracePeriodSeconds": 5}}),
    (
        DEPLOYMENTS,
        {
            "spec": {
                "replicas": 2,
                "selector": {"matchLabels": LABELS},
                "template": {"metadata": {"labels": LABELS}, "spec": {"containers": [CONTAINER]}},
                "strategy": {"type": "Recreate"},
            }
        },
    ),
    (SERVICES, {"spec": {"selector": LABELS, "ports": [{"port": 80, "targetPort": "http"}], "type": "NodePort"}}),
    (
        ENDPOINTSLICES,
        {"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {}}], "ports": [{"port": 1}]},
    ),
    (
        NODES,
        {
            "spec": {},
            "status": {
                "conditions": [{"type": "Ready", "status": "True"}],
                "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
            },
        },
    ),
    (CONFIGMAPS, {"data": {"a": "b"}}),
]
NONSENSE = st.sampled_from([None, True, 0, -1, 1.5, 70000, "", "x", [], [None], ["x"], [1], {}, {"x": 1}, {"x": None}])


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything inside."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in items for place in [(*path, key), *places(item, (*path, key))]]


def put(value: Any, path: tuple[Any, ...], new: Any) -> None:
    for step in path[:-1]:
        value = value[step]
    value[path[-1]] = copy.deepcopy(new)


def new_store() -> Store:
    store = Store(builtin_kinds())
    admission.install(store)
    return store


def run_everything(store: Store) -> None:
    """Every controller and every table."""
    for _ in range(3):
        for controller in loop.controllers(store):
            controller.reconcile(store)
    for kind in store.kinds:
        table(kind, list(store.list(kind.resource)), "1", "Metadata")


@pytest.mark.parametrize(("resource", "good"), GOOD)
def test_good_objects_are_accepted(resource: Resource, good: Object) -> None:
    store = new_store()
    metadata = {"name": "x", "labels": LABELS, "annotations": None, "finalizers": ["a/b"], "ownerReferences": [OWNER]}
    store.create(resource, {"metadata": metadata} | good)
    run_everything(store)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(GOOD), st.data())
def test_spoiled_objects_do_no_harm(case: tuple[Resource, Object], data: st.DataObject) -> None:
    resource, good = case
    store = new_store()
    for other, body in GOOD:
        store.create(other, {"metadata": {"name": "good", "labels": LABELS}} | body)
    spoiled = copy.deepcopy({"metadata": {"name": "x", "labels": LABELS, "ownerReferences": [OWNER]}} | good)
    for _ in range(data.draw(st.integers(1, 2))):
        put(spoiled, data.draw(st.sampled_from(places(spoiled))), data.draw(NONSENSE))
    with contextlib.suppress(TproxyError):
        store.create(resource, spoiled)
    run_everything(store)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_spoiled_status_does_no_harm(data: st.DataObject) -> None:
    store = new_store()
    for other, body in GOOD:
        store.create(other, {"metadata": {"name": "good", "labels": LABELS}} | body)
    status = {
        "phase": "Running",
        "podIP": "10.0.0.1",
        "podIPs": [{"ip": "10.0.0.1"}],
        "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [{"name": "c", "ready": True, "restartCount": 1, "state": {"running": {}}}],
    }
    put(status, data.draw(st.sampled_from(places(status))), data.draw(NONSENSE))
    with contextlib.suppress(TproxyError):
        store.patch(PODS, "good", {"status": status}, subresource="status")
    run_everything(store)
