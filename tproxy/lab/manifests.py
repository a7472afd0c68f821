"""`lab apply` and `lab delete`: ordinary manifests, object by object, through the API."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tproxy.errors import ClusterError, InvalidError
from tproxy.kube.errors import NotFoundError
from tproxy.kube.port import DEPLOYMENTS, PODS, SERVICES, Object, Resource
from tproxy.lab import records
from tproxy.lab.client import Client
from tproxy.lab.layout import Layout

_POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Manifest:
    """One object of a file, and where the API serves it. `namespace` is empty for cluster-wide kinds."""

    resource: Resource
    namespace: str
    name: str
    body: Object

    @property
    def title(self) -> str:
        """`deployment/web`, or `session.tproxy.dev/x` outside the well-known groups."""
        group = self.resource.group
        kind = self.resource.kind.lower() + (f".{group}" if "." in group and not group.endswith("k8s.io") else "")
        return f"{kind}/{self.name}"


def load(text: str, source: str) -> list[Object]:
    """The objects of a YAML stream, lists unpacked. `source` names it in errors. Raises InvalidError."""
    try:
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
    except yaml.YAMLError as error:
        raise InvalidError(f"{source} is not YAML: {' '.join(str(error).split())[:256]}") from error
    objects: list[Object] = []
    for number, document in enumerate(documents, start=1):
        if isinstance(document, dict) and document.get("kind") == "List":
            objects += document.get("items") or []
        else:
            objects.append(document)
        for one in objects:
            _check(one, f"document {number} of {source}")
    if not objects:
        raise InvalidError(f"{source} has no objects in it")
    return objects


def _check(document: Any, where: str) -> None:
    if not isinstance(document, dict):
        raise InvalidError(f"{where} is not an object")
    metadata = document.get("metadata")
    for name, value in (
        ("apiVersion", document.get("apiVersion")),
        ("kind", document.get("kind")),
        ("metadata.name", metadata.get("name") if isinstance(metadata, dict) else None),
    ):
        if not isinstance(value, str) or not value:
            raise InvalidError(f"{where} has no {name}")


def read_files(paths: Sequence[str], standard_input: Callable[[], str]) -> list[Object]:
    """The objects of files, of directories' *.yaml, *.yml and *.json, and of `-`. Raises InvalidError."""
    objects = []
    for given in paths:
        if given == "-":
            objects += load(standard_input(), "standard input")
            continue
        path = Path(given)
        names = (
            [one for one in sorted(path.iterdir()) if one.suffix in (".yaml", ".yml", ".json")]
            if path.is_dir()
            else [path]
        )
        for name in names:
            try:
                objects += load(name.read_text(), str(name))
            except (OSError, UnicodeDecodeError) as error:
                raise InvalidError(f"cannot read {name}: {getattr(error, 'strerror', None) or error}") from error
    return objects


def resolve(client: Client, objects: Sequence[Object], default_namespace: str) -> list[Manifest]:
    """Find out where each object is served, before any of them is touched. Raises InvalidError, ClusterError."""
    manifests = []
    for body in objects:
        resource = client.resource_for(body["apiVersion"], body["kind"])
        metadata = body["metadata"]
        namespace = metadata.get("namespace") or default_namespace if resource.namespaced else ""
        manifests.append(Manifest(resource, namespace, metadata["name"], body))
    return manifests


def apply(client: Client, manifests: Sequence[Manifest]) -> Iterator[tuple[Manifest, str]]:
    """Create or merge-patch each; yields it with `created`, `configured` or `unchanged`."""
    for one in manifests:
        try:
            before = client.get(one.resource, one.name, one.namespace)
        except NotFoundError:
            client.create(one.resource, one.body, one.namespace)
            yield one, "created"
            continue
        after = client.patch(one.resource, one.name, one.body, one.namespace)
        same = before["metadata"]["resourceVersion"] == after["metadata"]["resourceVersion"]
        yield one, "unchanged" if same else "configured"


def delete(client: Client, manifests: Sequence[Manifest]) -> Iterator[tuple[Manifest, str]]:
    """Delete each, the last first; yields it with `deleted` or `not found`."""
    for one in reversed(manifests):
        try:
            client.delete(one.resource, one.name, one.namespace)
        except NotFoundError:
            yield one, "not found"
        else:
            yield one, "deleted"


def wait_ready(client: Client, layout: Layout, manifests: Sequence[Manifest], timeout: float) -> None:
    """Return once what was applied serves. Raises ClusterError after `timeout` seconds, saying what does not."""
    _wait(lambda: [reason for one in manifests if (reason := _lacking(client, layout, one))], timeout, "ready")


def wait_gone(client: Client, manifests: Sequence[Manifest], timeout: float) -> None:
    """Return once the objects and the pods that belonged to them are gone. Raises ClusterError."""
    _wait(lambda: [reason for one in manifests if (reason := _remaining(client, one))], timeout, "gone")


def _wait(problems: Callable[[], list[str]], timeout: float, what: str) -> None:
    deadline = time.monotonic() + timeout
    while found := problems():
        if time.monotonic() > deadline:
            raise ClusterError(f"not {what} after {timeout:g} s: {'; '.join(found)}", "`tproxy lab status`")
        time.sleep(_POLL_SECONDS)


def _lacking(client: Client, layout: Layout, one: Manifest) -> str:
    if one.resource not in (DEPLOYMENTS, PODS, SERVICES):
        return ""
    try:
        obj = client.get(one.resource, one.name, one.namespace)
    except NotFoundError:
        return f"{one.title} has been deleted"
    if one.resource == PODS:
        return "" if _is_ready(obj) else f"{one.title}: {_why(obj)}"
    if one.resource == DEPLOYMENTS:
        return _lacking_deployment(client, one, obj)
    return _lacking_service(client, layout, one, obj)


def _lacking_deployment(client: Client, one: Manifest, deployment: Object) -> str:
    wanted, status = deployment["spec"]["replicas"], deployment.get("status") or {}
    counts = [status.get(name, 0) for name in ("replicas", "updatedReplicas", "readyReplicas")]
    if status.get("observedGeneration") == deployment["metadata"]["generation"] and counts == [wanted] * 3:
        return ""
    unready = [pod for pod in _pods_of(client, deployment) if not _is_ready(pod)]
    whys = "; ".join(f"pod/{pod['metadata']['name']}: {_why(pod)}" for pod in unready[:3])
    return f"{one.title}: {status.get('readyReplicas', 0)} of {wanted} pods ready" + (f" ({whys})" if whys else "")


def _lacking_service(client: Client, layout: Layout, one: Manifest, service: Object) -> str:
    """A Service serves when the nodes' rules lead to every ready pod it selects."""
    selector = service["spec"].get("selector") or {}
    if not selector or service["spec"].get("clusterIP") == "None":
        return ""
    labels = ",".join(f"{key}={value}" for key, value in selector.items())
    families = service["spec"].get("ipFamilies") or ["IPv4"]
    ready: set[str] = {
        address["ip"]
        for pod in client.list(PODS, one.namespace, labels)
        if _is_ready(pod) and "deletionTimestamp" not in pod["metadata"]
        for address in pod["status"]["podIPs"]
        if ("IPv6" if ":" in address["ip"] else "IPv4") in families
    }
    known = (records.read(layout) or {}).get("services", [])
    served: set[str] = {address for record in known if _is_same(record, one) for address in record["endpoints"]}
    return "" if ready <= served else f"{one.title}: the nodes do not forward to it yet"


def _is_same(record: Object, one: Manifest) -> bool:
    return bool(record["namespace"] == one.namespace and record["name"] == one.name)


def _remaining(client: Client, one: Manifest) -> str:
    try:
        client.get(one.resource, one.name, one.namespace)
    except NotFoundError:
        selector = ((one.body.get("spec") or {}).get("selector") or {}).get("matchLabels")
        if one.resource != DEPLOYMENTS or not selector:
            return ""
        labels = ",".join(f"{key}={value}" for key, value in selector.items())
        left = client.list(PODS, one.namespace, labels)
        return f"{one.title}: {len(left)} pods are still ending" if left else ""
    return f"{one.title} is still there"


def _pods_of(client: Client, deployment: Object) -> list[Object]:
    uid, namespace = deployment["metadata"]["uid"], deployment["metadata"]["namespace"]
    return [
        pod
        for pod in client.list(PODS, namespace)
        if any(owner["uid"] == uid for owner in pod["metadata"].get("ownerReferences") or ())
    ]


def _is_ready(pod: Object) -> bool:
    conditions = pod.get("status", {}).get("conditions") or []
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _why(pod: Object) -> str:
    """The most telling thing that the status says about why the pod is not ready."""
    status = pod.get("status", {})
    for container in status.get("containerStatuses") or ():
        waiting = container.get("state", {}).get("waiting") or {}
        if waiting.get("message"):
            return f"{waiting['reason']}: {waiting['message']}"
    messages = [one.get("message", "") for one in status.get("conditions") or () if one["type"] == "Ready"]
    return status.get("message") or "".join(messages) or "waits for a node"
