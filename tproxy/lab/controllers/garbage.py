"""Removes dependents whose owners are gone, and the contents of namespaces on their way out."""

from tproxy.kube.port import NAMESPACES, Object, Resource
from tproxy.lab.api.store import Store
from tproxy.lab.controllers.each import alone


def reconcile(store: Store) -> None:
    """One pass over everything."""
    objects = [(kind.resource, obj) for kind in store.kinds for obj in store.list(kind.resource)]
    living = {obj["metadata"]["uid"] for _, obj in objects}
    served = {kind.resource.kind for kind in store.kinds}
    for resource, obj in objects:
        owners = obj["metadata"].get("ownerReferences") or []
        # An owner of a kind that is not served here cannot be looked up, so it counts as alive.
        if owners and all(owner["kind"] in served and owner["uid"] not in living for owner in owners):
            _delete(store, resource, obj)
    for resource, namespace in objects:
        if resource == NAMESPACES and "deletionTimestamp" in namespace["metadata"]:
            _empty(store, namespace["metadata"]["name"])


def _empty(store: Store, namespace: str) -> None:
    resources = [kind.resource for kind in store.kinds if kind.resource.namespaced]
    for resource in resources:
        for obj in store.list(resource, namespace):
            _delete(store, resource, obj)
    if not any(store.list(resource, namespace) for resource in resources):
        store.delete(NAMESPACES, namespace, grace_seconds=0)


def _delete(store: Store, resource: Resource, obj: Object) -> None:
    metadata = obj["metadata"]
    if "deletionTimestamp" not in metadata:
        with alone(obj):
            store.delete(resource, metadata["name"], metadata.get("namespace", ""), metadata["uid"])
