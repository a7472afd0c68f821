"""Gives each pod a node: of those that fit, the one with the fewest pods of the same owner, then the emptiest."""

from tproxy.kube.port import NODES, PODS, Object
from tproxy.lab.api.store import Store
from tproxy.lab.controllers.deployments import controller_uid, is_ready
from tproxy.lab.controllers.each import alone


def reconcile(store: Store) -> None:
    """One pass over the pods without a node."""
    pods = store.list(PODS)
    nodes = [node for node in store.list(NODES) if is_ready(node) and not node.get("spec", {}).get("unschedulable")]
    for pod in pods:
        if pod["spec"].get("nodeName") or "deletionTimestamp" in pod["metadata"]:
            continue
        if (node := choose(pod, pods, nodes)) is not None:
            pod["spec"]["nodeName"] = node["metadata"]["name"]
            with alone(pod):
                store.update(PODS, pod)


def choose(pod: Object, pods: list[Object], nodes: list[Object]) -> Object | None:
    """The node for `pod`, given what runs where already; None while no node fits its nodeSelector."""
    selector = (pod["spec"].get("nodeSelector") or {}).items()
    fitting = [node for node in nodes if selector <= (node["metadata"].get("labels") or {}).items()]

    def load(node: Object) -> tuple[int, int, str]:
        name = node["metadata"]["name"]
        here = [other for other in pods if other["spec"].get("nodeName") == name]
        owner = controller_uid(pod)
        siblings = sum(bool(owner) and controller_uid(other) == owner for other in here)
        return siblings, len(here), name

    return min(fitting, key=load, default=None)
