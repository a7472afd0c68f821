"""Writes EndpointSlices: which pods stand behind a Service with a selector, at which addresses and ports."""

from collections.abc import Iterator

from tproxy.kube.port import ENDPOINTSLICES, PODS, SERVICES, Object
from tproxy.lab.api.store import Store, key_of
from tproxy.lab.controllers.deployments import is_ready
from tproxy.lab.controllers.each import alone

SERVICE_LABEL = "kubernetes.io/service-name"
MANAGED_LABEL = "endpointslice.kubernetes.io/managed-by"
MANAGER = "endpointslice-controller.k8s.io"

_Ports = tuple[tuple[str, int, str], ...]


def reconcile(store: Store) -> None:
    """One pass over all Services."""
    pods = store.list(PODS)
    ours = {key_of(obj): obj for obj in store.list(ENDPOINTSLICES, labels=f"{MANAGED_LABEL}={MANAGER}")}
    for service in store.list(SERVICES):
        for wanted in slices(service, pods):
            write = store.create if ours.pop(key_of(wanted), None) is None else store.update
            with alone(service):
                write(ENDPOINTSLICES, wanted)
    for namespace, name in ours:
        store.delete(ENDPOINTSLICES, name, namespace)


def slices(service: Object, pods: list[Object]) -> Iterator[Object]:
    """The slices of a Service: one for each family and each way in which its named ports resolve."""
    spec = service["spec"]
    if not (selector := spec.get("selector")) or "deletionTimestamp" in service["metadata"]:
        return
    namespace = service["metadata"]["namespace"]
    chosen = [
        pod
        for pod in pods
        if pod["metadata"]["namespace"] == namespace
        and selector.items() <= (pod["metadata"].get("labels") or {}).items()
        and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")
    ]
    for family in spec.get("ipFamilies", ["IPv4"]):
        groups: dict[_Ports, list[Object]] = {}
        for pod in chosen:
            if address := pod_address(pod, family):
                endpoint = _endpoint(pod, address, bool(spec.get("publishNotReadyAddresses")))
                groups.setdefault(_ports(service, pod), []).append(endpoint)
        for index, ports in enumerate(sorted(groups) or [_ports(service, None)]):
            yield _slice(service, family, index, ports, groups.get(ports, []))


def pod_address(pod: Object, family: str) -> str:
    """The pod's address of a family (`IPv4`, `IPv6`), empty if it has none (yet)."""
    status = pod.get("status", {})
    addresses = [entry["ip"] for entry in status.get("podIPs") or []] or [status.get("podIP")]
    return next((ip for ip in addresses if ip and (":" in ip) == (family == "IPv6")), "")


def _ports(service: Object, pod: Object | None) -> _Ports:
    resolved = []
    for port in service["spec"].get("ports") or []:
        target = port["targetPort"]
        number = target if isinstance(target, int) else _named_port(pod, target, port["protocol"])
        if number is not None:
            resolved.append((port.get("name", ""), number, port["protocol"]))
    return tuple(resolved)


def _named_port(pod: Object | None, name: str, protocol: str) -> int | None:
    if name.isdecimal():
        return int(name)
    for container in pod["spec"]["containers"] if pod else []:
        for port in container.get("ports") or []:
            if (port.get("name"), port["protocol"]) == (name, protocol):
                return int(port["containerPort"])
    return None


def _endpoint(pod: Object, address: str, publish_not_ready: bool) -> Object:
    metadata, serving = pod["metadata"], is_ready(pod)
    terminating = "deletionTimestamp" in metadata
    endpoint: Object = {
        "addresses": [address],
        "conditions": {
            "ready": publish_not_ready or (serving and not terminating),
            "serving": serving,
            "terminating": terminating,
        },
        "nodeName": pod["spec"].get("nodeName"),
        "targetRef": {"kind": "Pod"} | {key: metadata[key] for key in ("namespace", "name", "uid")},
    }
    if pod["spec"].get("hostname") and pod["spec"].get("subdomain"):
        endpoint["hostname"] = pod["spec"]["hostname"]
    return endpoint


def _slice(service: Object, family: str, index: int, ports: _Ports, endpoints: list[Object]) -> Object:
    metadata = service["metadata"]
    owner = {"apiVersion": "v1", "kind": "Service", "controller": True, "blockOwnerDeletion": True}
    return {
        "apiVersion": ENDPOINTSLICES.api_version,
        "kind": ENDPOINTSLICES.kind,
        "metadata": {
            "name": f"{metadata['name']}-{family.lower()}" + (f"-{index}" if index else ""),
            "namespace": metadata["namespace"],
            "labels": {SERVICE_LABEL: metadata["name"], MANAGED_LABEL: MANAGER},
            "ownerReferences": [owner | {"name": metadata["name"], "uid": metadata["uid"]}],
        },
        "addressType": family,
        "endpoints": endpoints,
        "ports": [{"name": name, "port": port, "protocol": protocol} for name, port, protocol in ports],
    }
