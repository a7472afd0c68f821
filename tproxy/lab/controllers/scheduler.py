"""Gives each pod a node: of those that fit, the one with the fewest pods of the same owner, then the emptiest.

Of the owner's pods those of the same template count first, and those that are going do not, so that a Deployment is
spread over its nodes again after a rollout (as topology spread with `matchLabelKeys: [pod-template-hash]` does it).
"""

from tproxy.kube.port import NODES, PODS, Object
from tproxy.lab.api.store import Store
from tproxy.lab.controllers.deployments import HASH_LABEL, controller_uid, is_ready
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

    def load(node: Object) -> tuple[int, int, int, str]:
        name = node["metadata"]["name"]
        here = [other for other in pods if other["spec"].get("nodeName") == name]
        owner = controller_uid(pod)
        staying = [other for other in here if "deletionTimestamp" not in other["metadata"]]
        siblings = [other for other in staying if owner and controller_uid(other) == owner]
        same = [other for other in siblings if _template(other) == _template(pod)]
        return len(same), len(siblings), len(here), name

    return min(fitting, key=load, default=None)


def _template(pod: Object) -> str | None:
    return (pod["metadata"].get("labels") or {}).get(HASH_LABEL)
