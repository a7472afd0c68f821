"""Pods and Services as the API server sends them."""

from typing import Any

import pytest
from hypothesis import given

from tests.unit.model.objects import json_values
from tproxy.errors import InvalidError
from tproxy.model.pod import Container, ContainerPort, OwnerRef, Pod, Service, ServicePort, labels_match

POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "namespace": "shop",
        "name": "web-5d-x2x",
        "uid": "u1",
        "labels": {"app": "web"},
        "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d", "uid": "r1", "controller": True}
        ],
    },
    "spec": {
        "nodeName": "node1",
        "runtimeClassName": "gvisor",
        "containers": [{"name": "app", "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}]}],
        "initContainers": [
            {"name": "setup", "ports": [{"containerPort": 1}]},
            {"name": "proxy", "restartPolicy": "Always", "ports": [{"containerPort": 15001}]},
        ],
    },
    "status": {
        "phase": "Running",
        "podIP": "10.244.1.7",
        "podIPs": [{"ip": "10.244.1.7"}, {"ip": "fd24:1::7"}],
        "conditions": [{"type": "Initialized", "status": "False"}, {"type": "Ready", "status": "True"}],
    },
}


def changed(**parts: dict[str, Any]) -> dict[str, Any]:
    """POD with changes to metadata, spec or status."""
    return POD | {part: POD[part] | values for part, values in parts.items()}


def test_a_pod() -> None:
    assert Pod.from_object(POD) == Pod(
        namespace="shop",
        name="web-5d-x2x",
        uid="u1",
        node="node1",
        phase="Running",
        addresses=("10.244.1.7", "fd24:1::7"),
        runtime_class="gvisor",
        labels={"app": "web"},
        owners=(OwnerRef("apps/v1", "ReplicaSet", "web-5d", "r1", True),),
        # A sidecar's ports are the pod's like any other; an ordinary init container's are not.
        containers=(
            Container("app", (ContainerPort("http", 8080),)),
            Container("proxy", (ContainerPort("", 15001),)),
        ),
        ready=True,
    )


def test_a_pod_that_is_not_placed_yet() -> None:
    pod = Pod.from_object({"metadata": {"namespace": "shop", "name": "p", "uid": "u"}, "spec": {}})
    assert pod == Pod("shop", "p", "u")
    assert not pod.running


def test_running_means_meant_to_stay() -> None:
    assert Pod.from_object(POD).running
    assert not Pod.from_object(changed(metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"})).running
    assert not Pod.from_object(changed(status={"phase": "Succeeded"})).running


def test_an_older_server_gives_one_address() -> None:
    assert Pod.from_object(changed(status={"podIPs": None})).addresses == ("10.244.1.7",)
    assert Pod.from_object(changed(status={"podIPs": None, "podIP": None})).addresses == ()


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"metadata": {"uid": None}}, "Pod shop/web-5d-x2x: metadata.uid is missing"),
        ({"metadata": {"labels": {"a": 1}}}, "metadata.labels.a must be text, not int"),
        ({"spec": {"containers": "x"}}, "spec.containers must be a list, not 'x'"),
        ({"spec": {"hostNetwork": "yes"}}, "spec.hostNetwork must be true or false, not 'yes'"),
        ({"status": {"podIPs": ["10.0.0.1"]}}, "status.podIPs[0] must be a JSON object, not '10.0.0.1'"),
    ],
)
def test_what_is_no_pod(parts: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidError) as raised:
        Pod.from_object(changed(**parts))
    assert sentence in raised.value.message


@given(json_values)
def test_nonsense_is_refused(value: object) -> None:
    for parse in (Pod.from_object, Service.from_object):
        with pytest.raises(InvalidError):
            parse(value)


def test_a_service() -> None:
    service = Service.from_object(
        {
            "metadata": {"namespace": "shop", "name": "web"},
            "spec": {
                "selector": {"app": "web"},
                "clusterIP": "10.96.0.7",
                "ports": [
                    {"name": "http", "port": 80, "targetPort": "web"},
                    {"name": "raw", "port": 81, "targetPort": 8081, "protocol": "TCP"},
                    {"name": "same", "port": 82},
                    {"name": "dns", "port": 53, "targetPort": 0, "protocol": "UDP"},
                ],
            },
        }
    )
    assert service.ports == (
        ServicePort("http", 80, "web"),
        ServicePort("raw", 81, 8081),
        ServicePort("same", 82, 82),
        ServicePort("dns", 53, 53, "UDP"),
    )
    assert not service.headless
    assert service.selects(Pod.from_object(POD))


def test_a_headless_service_without_selector() -> None:
    service = Service.from_object({"metadata": {"namespace": "shop", "name": "db"}, "spec": {"clusterIP": "None"}})
    assert service == Service("shop", "db", {}, (), headless=True)
    assert not service.selects(Pod.from_object(POD))


def test_labels() -> None:
    assert labels_match({"a": "1"}, {"a": "1", "b": "2"})
    assert not labels_match({"a": "1", "b": "2"}, {"a": "1"})
    assert not labels_match({"a": "2"}, {"a": "1"})
    assert not labels_match({}, {"a": "1"})
