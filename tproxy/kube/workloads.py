"""From what a person calls a workload to its pods."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tproxy.errors import DeniedError, InvalidError
from tproxy.kube.errors import NotFoundError
from tproxy.kube.owners import Chain, OwnerChains
from tproxy.kube.port import (
    DAEMONSETS,
    DEPLOYMENTS,
    JOBS,
    PODS,
    REPLICASETS,
    SERVICES,
    STATEFULSETS,
    Cluster,
    Object,
    Resource,
)
from tproxy.model.intercept import Target
from tproxy.model.pod import Pod, Service
from tproxy.model.workload import TargetQuery, matches, nearest

__all__ = ["Chain", "OwnerChains", "Resolved", "names", "resolve"]

SEARCHED: Sequence[Resource] = (DEPLOYMENTS, STATEFULSETS, DAEMONSETS, REPLICASETS, JOBS, PODS, SERVICES)
"""Where a bare name is looked for, the first that has it wins."""

_BY_KIND = {resource.kind: resource for resource in SEARCHED}
_FINISHED = ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class Resolved:
    """A target that exists.

    `pods` are its pods now that have not finished and are not being deleted, whether they run yet or not; there may
    be none. `service` is the Service if the target is one.
    """

    target: Target
    pods: list[Pod]
    service: Service | None = None


async def resolve(cluster: Cluster, namespace: str, query: TargetQuery) -> Resolved:
    """Find what `query` means in `namespace`, and its pods.

    Raises `InvalidError` with the nearest names if there is no such workload, `DeniedError` if we may read nothing
    that could be it, `ClusterError` if the API server cannot be asked.
    """
    if query.kind is not None and query.kind not in _BY_KIND:
        return await _custom(cluster, namespace, Target(query.kind, query.name))
    kinds = SEARCHED if query.kind is None else (_BY_KIND[query.kind],)
    for resource, found in zip(kinds, await _get_each(cluster, kinds, namespace, query.name), strict=True):
        if found is not None:
            return await _resolved(cluster, namespace, Target(resource.kind, query.name), found)
    raise await _unknown(cluster, namespace, query)


async def names(cluster: Cluster, namespace: str, resources: Sequence[Resource] = SEARCHED) -> list[str]:
    """The names of the workloads in `namespace` that we may list, without those that belong to another of them."""
    answers = await asyncio.gather(*(_list_or_nothing(cluster, resource, namespace) for resource in resources))
    found = {
        obj["metadata"]["name"]
        for objects in answers
        for obj in objects
        if len(resources) == 1 or not obj["metadata"].get("ownerReferences")
    }
    return sorted(found)


async def _get_each(cluster: Cluster, kinds: Sequence[Resource], namespace: str, name: str) -> list[Object | None]:
    """The object of each kind; None where there is none. Kinds we may not read are skipped unless all are such."""
    answers = await asyncio.gather(
        *(cluster.get(resource, name, namespace) for resource in kinds), return_exceptions=True
    )
    denied: list[DeniedError] = []
    found: list[Object | None] = []
    for answer in answers:
        if isinstance(answer, DeniedError):
            denied.append(answer)
        elif isinstance(answer, BaseException) and not isinstance(answer, NotFoundError):
            raise answer
        found.append(None if isinstance(answer, BaseException) else answer)
    if len(denied) == len(kinds):
        raise denied[0]
    return found


async def _resolved(cluster: Cluster, namespace: str, target: Target, obj: Object) -> Resolved:
    if target.kind == "Pod":
        return Resolved(target, _current([Pod.from_object(obj)]))
    if target.kind == "Service":
        service = Service.from_object(obj)
        if not service.selector:
            raise InvalidError(
                f'the Service "{service.name}" has no selector: no pods belong to it',
                hint="name the workload behind it instead, as in `deploy/NAME`",
            )
        labels = ",".join(f"{key}={value}" for key, value in service.selector.items())
        return Resolved(target, _current(await _pods(cluster, namespace, labels)), service)
    pods = _current(await _pods(cluster, namespace, _selector(obj)))
    return Resolved(target, await _owned(cluster, target, pods, trusted=True))


async def _custom(cluster: Cluster, namespace: str, target: Target) -> Resolved:
    """A kind we know nothing of: it is found as an owner of pods."""
    pods = await _owned(cluster, target, _current(await _pods(cluster, namespace, "")), trusted=False)
    if not pods:
        raise InvalidError(
            f'no pod in namespace "{namespace}" belongs to a {target.kind} "{target.name}"',
            hint=f"see who owns what: `kubectl -n {namespace} get pods -o custom-columns="
            "POD:.metadata.name,KIND:.metadata.ownerReferences[*].kind,OWNER:.metadata.ownerReferences[*].name`",
        )
    return Resolved(target, pods)


async def _owned(cluster: Cluster, target: Target, pods: list[Pod], trusted: bool) -> list[Pod]:
    """Those of `pods` that `target` owns. If `trusted`, also those whose owners we may not read."""
    chains = OwnerChains(cluster)
    read = await asyncio.gather(*(chains.read(pod) for pod in pods))
    return [
        pod
        for pod, chain in zip(pods, read, strict=True)
        if matches(target, pod, chain.owners, ()) or (trusted and not chain.complete)
    ]


async def _pods(cluster: Cluster, namespace: str, labels: str) -> list[Pod]:
    return [Pod.from_object(obj) for obj in await cluster.list(PODS, namespace, labels=labels)]


def _current(pods: list[Pod]) -> list[Pod]:
    return [pod for pod in pods if pod.phase not in _FINISHED and not pod.deleting]


async def _unknown(cluster: Cluster, namespace: str, query: TargetQuery) -> InvalidError:
    kinds = SEARCHED if query.kind is None else (_BY_KIND[query.kind],)
    existing = await names(cluster, namespace, kinds)
    prefix = "" if query.kind is None else f"{_BY_KIND[query.kind].plural.removesuffix('s')}/"
    what = "workload" if query.kind is None else query.kind
    close = nearest(query.name, existing)
    if close:
        hint = "did you mean " + " or ".join(f"`{prefix}{name}`" for name in close) + "?"
    elif existing:
        hint = "there are " + ", ".join(f"`{prefix}{name}`" for name in existing[:10])
    else:
        hint = f'there are none in namespace "{namespace}"; choose another with `--namespace NAME`'
    return InvalidError(f'no {what} "{query.name}" in namespace "{namespace}"', hint)


async def _list_or_nothing(cluster: Cluster, resource: Resource, namespace: str) -> Sequence[Object]:
    try:
        return await cluster.list(resource, namespace)
    except (NotFoundError, DeniedError):
        return ()


def _selector(obj: Object) -> str:
    """A workload's `spec.selector` as the query parameter has it."""
    spec = obj.get("spec")
    selector: Mapping[str, Any] = (spec.get("selector") if isinstance(spec, dict) else None) or {}
    terms = [f"{key}={value}" for key, value in (selector.get("matchLabels") or {}).items()]
    for rule in selector.get("matchExpressions") or ():
        key, values = rule.get("key"), ",".join(rule.get("values") or ())
        match rule.get("operator"):
            case "In":
                terms.append(f"{key} in ({values})")
            case "NotIn":
                terms.append(f"{key} notin ({values})")
            case "Exists":
                terms.append(f"{key}")
            case "DoesNotExist":
                terms.append(f"!{key}")
    return ",".join(terms)
