"""Manifests of workloads of every kind, whose pods answer HTTP with their name (`tests/lab/hello.py`)."""

from collections.abc import Mapping, Sequence
from typing import Any

from tests.e2e.cluster import APP, APPS

Object = dict[str, Any]
PORT = 8080


def container(name: str = "app", port: int = PORT, port_name: str = "http") -> Object:
    """A server, ready when it answers."""
    return {
        "name": name,
        "image": APP,
        "imagePullPolicy": "Never",
        "command": ["python", f"{APPS}/hello.py", "--port", str(port)],
        "env": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "ports": [{"name": port_name, "containerPort": port}],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": port_name}, "periodSeconds": 1},
        # As real ones do: it goes on serving until nobody sends anything any more.
        "lifecycle": {"preStop": {"sleep": {"seconds": 2}}},
    }


def template(app: str, containers: Sequence[Object] = (), **spec: Any) -> Object:
    """A pod's metadata and spec, on both nodes if there are two of it."""
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"app": app}},
    }
    return {
        "metadata": {"labels": {"app": app}},
        "spec": {
            "terminationGracePeriodSeconds": 3,
            "topologySpreadConstraints": [spread],
            "containers": list(containers) or [container()],
            **spec,
        },
    }


def workload(kind: str, name: str, pod: Object, replicas: int | None = 2, **spec: Any) -> Object:
    """Of `apps/v1`."""
    counted = {} if replicas is None else {"replicas": replicas}
    selector = {"selector": {"matchLabels": {"app": name}}}
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": {**counted, **selector, "template": pod, **spec},
    }


def service(name: str, port: int = 80, target: int | str = "http", **spec: Any) -> Object:
    """A Service for the pods of `name`."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"name": "web", "port": port, "targetPort": target}], **spec},
    }


def bare(name: str, pod: Object, **metadata: Any) -> Object:
    """A Pod of its own."""
    labels: Mapping[str, Any] = pod["metadata"]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, **labels, **metadata}, "spec": pod["spec"]}
