"""The chart's roles that developers need, by name, for those who lack a right. A test compares them with the chart."""

from tproxy.kube.port import Resource

DEVELOPER = "tproxy-developer"
"""A ClusterRole, bound in each namespace that somebody works in."""

REACH_NODES = "tproxy-reach-nodes"
"""A Role of the node daemons' namespace."""


def denied(
    verb: str, resource: Resource, namespace: str, role: str = DEVELOPER, subresource: str = ""
) -> tuple[str, str]:
    """The sentence for somebody without this right, and how they get it."""
    kind = f"{resource.plural}.{resource.group}" if resource.group else resource.plural
    shown = f"{kind}/{subresource}" if subresource else kind
    option = f" --subresource={subresource}" if subresource else ""
    return (
        f'you may not {verb} {shown} in namespace "{namespace}"',
        f"ask an administrator for the chart's role {role} there (value `rbac.developers`); "
        f"`kubectl auth can-i {verb} {kind}{option} -n {namespace}` shows whether you have it",
    )
