"""What a cluster does to built-in objects on their way in: defaults, the checks that people run into, addresses."""

import base64
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address

from tproxy.kube.port import DEPLOYMENTS, NAMESPACES, PODS, SECRETS, SERVICES, Object
from tproxy.lab.api import schema, shapes
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
    """Fill in defaults and check the shape, of built-in kinds. Raises InvalidObjectError."""
    resource = kind.resource
    drop_nulls(obj if kind.schema is None else obj["metadata"])
    schema.check(kind, {"properties": {"metadata": shapes.METADATA}}, obj)
    if resource == NAMESPACES:
        _default(obj["metadata"], "labels", **{"kubernetes.io/metadata.name": obj["metadata"]["name"]})
        _default(obj, "status", phase="Active")
    elif resource == SERVICES:
        _default(obj, "spec", type="ClusterIP", sessionAffinity="None")
    elif resource == DEPLOYMENTS:
        _default(obj, "spec", replicas=1)
    schema.check(kind, shapes.SHAPES.get(resource, {}), obj)
    causes: list[Cause] = []
    if resource == PODS:
        _complete_pod(obj["spec"])
        _default(obj, "status", phase="Pending")
    elif resource == DEPLOYMENTS:
        causes = list(_complete_deployment(obj["spec"], before))
    elif resource == SERVICES:
        causes = list(_complete_service(obj["spec"]))
    elif resource == SECRETS:
        _complete_secret(obj)
    if causes:
        raise InvalidObjectError(resource, obj["metadata"]["name"], causes)


def drop_nulls(value: object) -> None:
    """Remove fields that are null, as a server does that decodes into typed structures."""
    if isinstance(value, dict):
        for key in [key for key, item in value.items() if item is None]:
            del value[key]
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        drop_nulls(item)


def _default(obj: Object, part: str, **values: object) -> None:
    inner = obj.setdefault(part, {})
    if isinstance(inner, dict):
        for name, value in values.items():
            inner.setdefault(name, value)


def _complete_pod(spec: Object) -> None:
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    for container in spec["containers"]:
        for port in container.get("ports") or []:
            port.setdefault("protocol", "TCP")


def _complete_secret(secret: Object) -> None:
    """`stringData` is for writing only."""
    secret.setdefault("type", "Opaque")
    for key, value in secret.pop("stringData", {}).items():
        secret.setdefault("data", {})[key] = base64.b64encode(value.encode()).decode()


def _complete_deployment(spec: Object, before: Object | None) -> Iterator[Cause]:
    _complete_pod(spec["template"]["spec"])
    labels = spec["template"]["metadata"].get("labels") or {}
    if not spec["selector"]["matchLabels"].items() <= labels.items():
        yield invalid_value("spec.template.metadata.labels", labels, "`selector` does not match template `labels`")
    if before is not None and before["spec"]["selector"] != spec["selector"]:
        yield invalid_value("spec.selector", spec["selector"], "field is immutable")


def _complete_service(spec: Object) -> Iterator[Cause]:
    ports = spec.get("ports") or []
    if not ports and spec["type"] != "ExternalName" and spec.get("clusterIP") != "None":
        yield Cause("spec.ports", "FieldValueRequired", "Required value")
    for index, port in enumerate(ports):
        if len(ports) > 1 and not port.get("name"):
            yield Cause(f"spec.ports[{index}].name", "FieldValueRequired", "Required value")
        port.setdefault("protocol", "TCP")
        target = port.setdefault("targetPort", port["port"])
        if isinstance(target, int) and not 0 < target < 65536:
            why = "must be between 1 and 65535, inclusive"
            yield invalid_value(f"spec.ports[{index}].targetPort", target, why)


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
        used = {port.get("nodePort") for other in [*services, spec] for port in other.get("ports") or []}
        for port in spec.get("ports") or []:
            if "nodePort" not in port:
                port["nodePort"] = next(n for n in range(_FIRST_NODE_PORT, 32768) if n not in used)
                used.add(port["nodePort"])


def install(store: Store) -> None:
    """Have the store complete and check what comes in, and give it the namespaces that every lab starts with."""
    store.admission += [complete, ServiceAddresses(store), schema.admit]
    for name in ("default", "kube-system", "tproxy-system"):
        store.create(NAMESPACES, {"metadata": {"name": name}})
