"""Keeps as many pods as a Deployment says, of the template it says.

There are no ReplicaSets: pods belong to their Deployment directly and carry the template's hash as a label. A rollout
adds one new pod at a time beyond the wanted number and takes an old one away for each new one that is ready.
"""

import hashlib
import json

from tproxy.kube.port import DEPLOYMENTS, PODS, Object
from tproxy.lab.api.store import Store, copied, now, suffix
from tproxy.lab.controllers.each import alone

HASH_LABEL = "pod-template-hash"


def reconcile(store: Store) -> None:
    """One pass over all Deployments."""
    pods = [pod for pod in store.list(PODS) if "deletionTimestamp" not in pod["metadata"]]
    for deployment in store.list(DEPLOYMENTS):
        if "deletionTimestamp" not in deployment["metadata"]:
            uid = deployment["metadata"]["uid"]
            with alone(deployment):
                _reconcile(store, deployment, [pod for pod in pods if controller_uid(pod) == uid])


def controller_uid(obj: Object) -> str:
    """The UID of the controlling owner, empty if there is none."""
    owners = obj["metadata"].get("ownerReferences") or []
    return next((owner["uid"] for owner in owners if owner.get("controller")), "")


def is_ready(pod: Object) -> bool:
    """Whether the pod's Ready condition is true."""
    conditions = pod.get("status", {}).get("conditions") or []
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def template_hash(deployment: Object) -> str:
    """Ten characters that change whenever the pod template does."""
    canonical = json.dumps(deployment["spec"]["template"], sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:10]


def _reconcile(store: Store, deployment: Object, pods: list[Object]) -> None:
    wanted, current_hash = deployment["spec"]["replicas"], template_hash(deployment)
    ended = [pod for pod in pods if pod.get("status", {}).get("phase") in ("Failed", "Succeeded")]
    living = [pod for pod in pods if pod not in ended]
    current = [pod for pod in living if pod["metadata"]["labels"].get(HASH_LABEL) == current_hash]
    old = [pod for pod in living if pod not in current]
    recreate = deployment["spec"].get("strategy", {}).get("type") == "Recreate"

    surplus = _least_useful_first(current)[: max(len(current) - wanted, 0)]
    # An old pod that serves goes only if enough others serve without it.
    spare = sum(map(is_ready, living)) - wanted
    for pod in _least_useful_first(old):
        if recreate or not is_ready(pod) or spare > 0:
            surplus.append(pod)
            spare -= is_ready(pod)
    for pod in ended + surplus:
        store.delete(PODS, pod["metadata"]["name"], pod["metadata"]["namespace"], pod["metadata"]["uid"])

    room = wanted - len(current) if not old else wanted + 1 - len(living)
    if recreate and old:
        room = 0
    for _ in range(min(room, wanted - len(current))):
        current.append(store.create(PODS, _pod_of(deployment, current_hash)))
    remaining = [pod for pod in current + old if pod not in surplus]
    _report(store, deployment, remaining, [pod for pod in current if pod not in surplus])


def _least_useful_first(pods: list[Object]) -> list[Object]:
    """Unscheduled, then unready, then younger pods first, as a ReplicaSet chooses whom to remove."""
    by_age = sorted(pods, key=lambda pod: int(pod["metadata"]["resourceVersion"]), reverse=True)
    by_age.sort(key=lambda pod: pod["metadata"]["creationTimestamp"], reverse=True)
    return sorted(by_age, key=lambda pod: (bool(pod["spec"].get("nodeName")), is_ready(pod)))


def _pod_of(deployment: Object, current_hash: str) -> Object:
    template, metadata = copied(deployment["spec"]["template"]), deployment["metadata"]
    owner = {
        "apiVersion": DEPLOYMENTS.api_version,
        "kind": DEPLOYMENTS.kind,
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {
        "metadata": {
            "name": f"{metadata['name']}-{current_hash}-{suffix()}",
            "generateName": f"{metadata['name']}-{current_hash}-",
            "namespace": metadata["namespace"],
            "labels": {**template["metadata"]["labels"], HASH_LABEL: current_hash},
            "annotations": template["metadata"].get("annotations") or {},
            "ownerReferences": [owner],
        },
        "spec": template["spec"],
    }


def _report(store: Store, deployment: Object, pods: list[Object], updated: list[Object]) -> None:
    wanted, ready = deployment["spec"]["replicas"], sum(map(is_ready, pods))
    before = deployment.get("status", {})
    available = {
        "type": "Available",
        "status": "True" if ready >= wanted else "False",
        "reason": "MinimumReplicasAvailable" if ready >= wanted else "MinimumReplicasUnavailable",
        "message": f"{ready} of {wanted} pods are ready",
        "lastTransitionTime": now(),
    }
    for condition in before.get("conditions", []):
        if condition["type"] == "Available" and condition["status"] == available["status"]:
            available["lastTransitionTime"] = condition["lastTransitionTime"]
    status = {
        "observedGeneration": deployment["metadata"]["generation"],
        "replicas": len(pods),
        "updatedReplicas": len(updated),
        "readyReplicas": ready,
        "availableReplicas": ready,
        "unavailableReplicas": max(wanted - ready, 0),
        "conditions": [available],
    }
    if status != before:
        metadata = deployment["metadata"]
        store.patch(DEPLOYMENTS, metadata["name"], {"status": status}, metadata["namespace"], "status")
