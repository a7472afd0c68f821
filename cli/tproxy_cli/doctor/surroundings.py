"""Checks of what tproxy stands on in the cluster: kernels and runtimes of the nodes, DNS, Pod Security.

Most of it may be looked at by administrators and debuggers only. Who may not is told what was not looked at; that is no
fault of anybody's.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tproxy.errors import DeniedError
from tproxy.kube.api import ApiCluster
from tproxy.kube.errors import NotFoundError
from tproxy.kube.port import ENDPOINTSLICES, NAMESPACES, NODES
from tproxy_cli.doctor.finding import CLUSTER, TPROXY, Finding
from tproxy_cli.doctor.nodes import SYSTEM_NAMESPACE, some

OLDEST_WITH_SK_LOOKUP = (5, 9)
"""Older kernels are steered by rules (TPROXY)."""

OLDEST = (5, 4)
"""The oldest kernel that rules are tried on."""

RUNTIMES = ("containerd", "cri-o", "docker")

DNS_NAMESPACE = "kube-system"
DNS_LABELS = "kubernetes.io/service-name=kube-dns"
"""CoreDNS keeps the Service's name of the server before it; every distribution known to us has it so."""

ENFORCE = "pod-security.kubernetes.io/enforce"


async def check_nodes(cluster: ApiCluster) -> list[Finding]:
    """Kernels and runtimes. Raises TproxyError."""
    try:
        listed = await cluster.list(NODES)
    except DeniedError:
        return [_unseen(CLUSTER, "kernels", "nodes"), _unseen(CLUSTER, "runtimes", "nodes")]
    told = {_name(node): info for node in listed if (info := _info(node))}
    if not told:
        return []
    return [_kernels(told), _runtimes(told)]


async def check_dns(cluster: ApiCluster) -> list[Finding]:
    """Whether the cluster's names have somebody who answers for them. Raises TproxyError."""
    try:
        slices = await cluster.list(ENDPOINTSLICES, DNS_NAMESPACE, labels=DNS_LABELS)
    except DeniedError:
        return [_unseen(CLUSTER, "dns", f'endpoints in namespace "{DNS_NAMESPACE}"')]
    ready = {
        address
        for one in slices
        for endpoint in one.get("endpoints") or []
        if (endpoint.get("conditions") or {}).get("ready") is not False
        for address in endpoint.get("addresses") or []
    }
    if ready:
        count = f"{len(ready)} address{'' if len(ready) == 1 else 'es'}"
        return [Finding(CLUSTER, "dns", "pass", f"Service kube-dns is answered by {count}")]
    text = f'nobody answers for Service kube-dns in namespace "{DNS_NAMESPACE}": names of the cluster may not resolve'
    hint = f"`kubectl -n {DNS_NAMESPACE} get pods,endpointslices -l k8s-app=kube-dns` shows what is there"
    return [Finding(CLUSTER, "dns", "warn", text, hint)]


async def check_pod_security(cluster: ApiCluster) -> list[Finding]:
    """Whether the node daemons' namespace admits privileged pods. Raises TproxyError."""
    try:
        namespace = await cluster.get(NAMESPACES, SYSTEM_NAMESPACE)
    except DeniedError:
        return [_unseen(TPROXY, "pod-security", "namespaces")]
    except NotFoundError:
        return []  # that there are no node daemons says it
    level = (namespace.get("metadata", {}).get("labels") or {}).get(ENFORCE)
    if level in (None, "privileged"):
        text = f'namespace "{SYSTEM_NAMESPACE}" admits node daemons' + ("" if level else ": no level is enforced by it")
        return [Finding(TPROXY, "pod-security", "pass", text)]
    text = f'namespace "{SYSTEM_NAMESPACE}" enforces level "{level}": new pods of node daemons are refused'
    return [
        Finding(
            TPROXY,
            "pod-security",
            "fail",
            text,
            f"`kubectl label --overwrite namespace {SYSTEM_NAMESPACE} {ENFORCE}=privileged`",
        )
    ]


def _kernels(told: Mapping[str, Mapping[str, str]]) -> Finding:
    versions = {node: _version(info.get("kernelVersion", "")) for node, info in told.items()}
    if old := sorted(node for node, version in versions.items() if version and version < OLDEST):
        text = f"older than {_dotted(OLDEST)} on {some(old)}: workloads there may not be interceptable"
        return Finding(CLUSTER, "kernels", "warn", text, "upgrade the nodes' system")
    if rules := sorted(node for node, version in versions.items() if version and version < OLDEST_WITH_SK_LOOKUP):
        text = f"older than {_dotted(OLDEST_WITH_SK_LOOKUP)} on {some(rules)}: steered there by rules, not by sk_lookup"
        return Finding(CLUSTER, "kernels", "pass", text)
    return Finding(CLUSTER, "kernels", "pass", _each(told, "kernelVersion"))


def _runtimes(told: Mapping[str, Mapping[str, str]]) -> Finding:
    def strange(info: Mapping[str, str]) -> bool:
        return info.get("containerRuntimeVersion", "").partition(":")[0] not in RUNTIMES

    if others := sorted(node for node, info in told.items() if strange(info)):
        text = f"{told[others[0]].get('containerRuntimeVersion') or 'unknown'} on {some(others)} is not known to work"
        hint = "`tproxy intercept` says whether it does"
        return Finding(CLUSTER, "runtimes", "warn", text, hint)
    return Finding(CLUSTER, "runtimes", "pass", _each(told, "containerRuntimeVersion"))


def _each(told: Mapping[str, Mapping[str, str]], name: str) -> str:
    return some(sorted({info.get(name, "unknown") for info in told.values()}))


def _info(node: Mapping[str, Any]) -> Mapping[str, str]:
    """What a node says it runs on; of one that does not say its kernel nothing can be told."""
    info = (node.get("status") or {}).get("nodeInfo") or {}
    return info if info.get("kernelVersion") else {}


def _name(node: Mapping[str, Any]) -> str:
    return str(node["metadata"].get("name", ""))


def _version(release: str) -> tuple[int, ...] | None:
    found = re.match(r"(\d{1,4})\.(\d{1,4})", release)
    return (int(found[1]), int(found[2])) if found else None


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))


def _unseen(category: str, name: str, what: str) -> Finding:
    return Finding(category, name, "skip", f"not looked at: you may not read {what}")


CHECKS: Sequence[tuple[str, str, Callable[[ApiCluster], Any]]] = (
    (CLUSTER, "nodes", check_nodes),
    (CLUSTER, "dns", check_dns),
    (TPROXY, "pod-security", check_pod_security),
)
"""Category, name and check: what each is called when it gets no answer."""
