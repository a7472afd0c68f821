"""What a cluster does to built-in objects on their way in: defaults, the checks that people run into, addresses."""

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address

from tproxy.kube.port import DEPLOYMENTS, NAMESPACES, PODS, SERVICES, Object
from tproxy.lab.api.errors import Cause, InvalidObjectError, invalid_value
from tproxy.lab.api.resources import Kind
from tproxy.lab.api.store import Store

SERVICE_NETWORKS: Mapping[str, IPv4Network | IPv6Network] = {
    "IPv4": IPv4Network("10.96.0.0/16"),
    "IPv6": IPv6Network("fd96::/112"),
}
DNS_NUMBER = 10
"""The n-th address of both service networks belongs to `kube-system/kube-dns`: 10.96.0.10."""

_FIRST_NUMBER = 32
_FIRST_NODE_PORT = 30000


def complete(kind: Kind, obj: Object, before: Object | None) -> None:
    """Fill in defaults of a built-in kind. Raises InvalidObjectError."""
    causes: list[Cause] = []
    if kind.resource == NAMESPACES:
        labels = obj["metadata"].setdefault("labels", {})
        labels["kubernetes.io/metadata.name"] = obj["metadata"]["name"]
        obj.setdefault("status", {}).setdefault("phase", "Active")
    elif kind.resource == PODS:
        causes += _complete_pod(obj, "")
        obj.setdefault("status", {}).setdefault("phase", "Pending")
    elif kind.resource == DEPLOYMENTS:
        causes += _complete_deployment(obj, before)
    elif kind.resource == SERVICES:
        causes += _complete_service(obj)
    if causes:
        raise InvalidObjectError(kind.resource, obj["metadata"]["name"], causes)


def _complete_pod(obj: Object, prefix: str) -> Iterator[Cause]:
    spec = obj.setdefault("spec", {})
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    containers = spec.get("containers")
    if not containers or not isinstance(containers, list):
        yield Cause(f"{prefix}spec.containers", "FieldValueRequired", "Required value")
        return
    for index, container in enumerate(containers):
        if not isinstance(container, dict) or not container.get("name"):
            yield Cause(f"{prefix}spec.containers[{index}].name", "FieldValueRequired", "Required value")
            continue
        for port in container.get("ports") or []:
            port.setdefault("protocol", "TCP")


def _complete_deployment(obj: Object, before: Object | None) -> Iterator[Cause]:
    spec = obj.setdefault("spec", {})
    replicas = spec.setdefault("replicas", 1)
    if not isinstance(replicas, int) or replicas < 0:
        yield invalid_value("spec.replicas", replicas, "must be greater than or equal to 0")
    selector = (spec.get("selector") or {}).get("matchLabels")
    if not selector:
        yield Cause("spec.selector", "FieldValueRequired", "Required value")
        return
    template = spec.setdefault("template", {})
    labels = template.setdefault("metadata", {}).get("labels") or {}
    if not selector.items() <= labels.items():
        why = "`selector` does not match template `labels`"
        yield invalid_value("spec.template.metadata.labels", labels, why)
    if before is not None and before["spec"]["selector"] != spec["selector"]:
        yield invalid_value("spec.selector", spec["selector"], "field is immutable")
    yield from _complete_pod(template, "spec.template.")


def _complete_service(obj: Object) -> Iterator[Cause]:
    spec = obj.setdefault("spec", {})
    spec.setdefault("type", "ClusterIP")
    spec.setdefault("sessionAffinity", "None")
    ports = spec.get("ports") or []
    if not ports and spec["type"] != "ExternalName" and spec.get("clusterIP") != "None":
        yield Cause("spec.ports", "FieldValueRequired", "Required value")
    for index, port in enumerate(ports):
        if not isinstance(port.get("port"), int) or not 0 < port["port"] < 65536:
            yield invalid_value(f"spec.ports[{index}].port", port.get("port"), "must be between 1 and 65535, inclusive")
        if len(ports) > 1 and not port.get("name"):
            yield Cause(f"spec.ports[{index}].name", "FieldValueRequired", "Required value")
        port.setdefault("protocol", "TCP")
        port.setdefault("targetPort", port.get("port"))


class ServiceAddresses:
    """Gives Services their cluster addresses, of both families, and node ports; the store tells which are in use."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __call__(self, kind: Kind, obj: Object, before: Object | None) -> None:
        """Admission. Raises InvalidObjectError if an address is taken, outside the range, or changed."""
        if kind.resource != SERVICES or obj["spec"]["type"] == "ExternalName":
            return
        spec = obj["spec"]
        asked = spec.get("clusterIPs") or []
        if spec.get("clusterIP"):
            asked = [spec["clusterIP"], *asked[1:]]
        if before is not None and (had := before["spec"].get("clusterIPs")):
            asked = asked or had
            if asked[0] != had[0]:
                self._refuse(kind, obj, asked[0], "field is immutable")
            asked = had
        elif asked and asked[0] != "None":
            for address in asked:
                self._check(kind, obj, address)
        families = self._families(spec, asked)
        if not asked:
            number = self._free_number(obj)
            asked = [str(SERVICE_NETWORKS[family][number]) for family in families]
        spec |= {"clusterIP": asked[0], "clusterIPs": asked, "ipFamilies": families}
        spec.setdefault("ipFamilyPolicy", "PreferDualStack" if len(families) > 1 else "SingleStack")
        if spec["type"] in ("NodePort", "LoadBalancer"):
            self._give_node_ports(spec)

    def _families(self, spec: Object, asked: list[str]) -> list[str]:
        if asked and asked[0] != "None":
            return [f"IPv{ip_address(address).version}" for address in asked]
        families = list(spec.get("ipFamilies") or SERVICE_NETWORKS)
        if spec.get("ipFamilyPolicy") == "SingleStack":
            return families[:1]
        return families

    def _others(self, obj: Object) -> Iterator[Object]:
        for service in self._store.list(SERVICES):
            if service["metadata"]["uid"] != obj["metadata"]["uid"]:
                yield service["spec"]

    def _used(self, obj: Object) -> set[str]:
        return {address for spec in self._others(obj) for address in spec.get("clusterIPs", [])}

    def _free_number(self, obj: Object) -> int:
        metadata = obj["metadata"]
        if (metadata["namespace"], metadata["name"]) == ("kube-system", "kube-dns"):
            return DNS_NUMBER
        used, number = self._used(obj), _FIRST_NUMBER
        while any(str(network[number]) in used for network in SERVICE_NETWORKS.values()):
            number += 1
        return number

    def _check(self, kind: Kind, obj: Object, address: str) -> None:
        try:
            known = any(ip_address(address) in network for network in SERVICE_NETWORKS.values())
        except ValueError:
            known = False
        if not known:
            ranges = " or ".join(map(str, SERVICE_NETWORKS.values()))
            self._refuse(kind, obj, address, f"the provided IP is not in the valid range: {ranges}")
        if address in self._used(obj):
            self._refuse(kind, obj, address, "provided IP is already allocated")

    def _refuse(self, kind: Kind, obj: Object, address: str, why: str) -> None:
        cause = invalid_value("spec.clusterIPs[0]", address, why)
        raise InvalidObjectError(kind.resource, obj["metadata"]["name"], [cause])

    def _give_node_ports(self, spec: Object) -> None:
        services = [service["spec"] for service in self._store.list(SERVICES)]
        used = {port.get("nodePort") for other in [*services, spec] for port in other.get("ports", [])}
        for port in spec.get("ports", []):
            if "nodePort" not in port:
                port["nodePort"] = next(n for n in range(_FIRST_NODE_PORT, 32768) if n not in used)
                used.add(port["nodePort"])


def install(store: Store) -> None:
    """Have the store complete and check what comes in, and give it the namespaces that every lab starts with."""
    from tproxy.lab.api import schema

    store.admission += [complete, ServiceAddresses(store), schema.admit]
    for name in ("default", "kube-system", "tproxy-system"):
        store.create(NAMESPACES, {"metadata": {"name": name}})
