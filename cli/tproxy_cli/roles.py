"""The chart's roles that developers need, by name, for those who lack a right. A test compares them with the chart."""

from collections.abc import Sequence

from tproxy.kube.port import Resource

Right = tuple[str, Resource, str]
"""Verb, kind, and subresource or nothing."""

DEVELOPER = "tproxy-developer"
"""A ClusterRole, bound in each namespace that somebody works in."""

REACH_NODES = "tproxy-reach-nodes"
"""A Role of the node daemons' namespace."""


def denied(
    verb: str, resource: Resource, namespace: str, role: str = DEVELOPER, subresource: str = ""
) -> tuple[str, str]:
    """The sentence for somebody without this right, and how they get it."""
    option = f" --subresource={subresource}" if subresource else ""
    return (
        f'you may not {verb} {_kind(resource, subresource)} in namespace "{namespace}"',
        f"{_ask(role)}; `kubectl auth can-i {verb} {_kind(resource)}{option} -n {namespace}` shows whether you have it",
    )


def all_denied(missing: Sequence[Right], wanted: int, namespace: str, role: str) -> tuple[str, str]:
    """The sentence for somebody without the `missing` ones of so many rights, and how they get them."""
    if len(missing) == 1:
        verb, resource, subresource = missing[0]
        return denied(verb, resource, namespace, role, subresource)
    verbs: dict[str, list[str]] = {}
    for verb, resource, subresource in missing:
        verbs.setdefault(_kind(resource, subresource), []).append(verb)
    listed = "; ".join(f"{', '.join(each)} {kind}" for kind, each in verbs.items())
    return (
        f'you lack {len(missing)} of {wanted} rights in namespace "{namespace}": {listed}',
        f"{_ask(role)}; `kubectl auth can-i --list -n {namespace}` shows what you have",
    )


def _kind(resource: Resource, subresource: str = "") -> str:
    kind = f"{resource.plural}.{resource.group}" if resource.group else resource.plural
    return f"{kind}/{subresource}" if subresource else kind


def _ask(role: str) -> str:
    return f"ask an administrator for the chart's role {role} there (value `rbac.developers`)"
