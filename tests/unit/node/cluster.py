"""The lab's object store as a `tproxy.kube.port.Cluster`, without HTTP in between."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from tproxy.errors import ClusterError
from tproxy.kube.errors import NotFoundError
from tproxy.kube.port import NAMESPACES, Object, Resource, WatchEvent
from tproxy.lab.api.resources import builtin_kinds, custom_kinds
from tproxy.lab.api.store import Store


class StoreCluster:
    """`store` is there to be changed directly; while `away`, calls fail. `patches` are those that were accepted."""

    def __init__(self) -> None:
        self.store = Store([*builtin_kinds(), *custom_kinds()])
        self.away = False
        self.patches: list[Mapping[str, Any]] = []
        for namespace in ("default", "shop"):
            self.store.create(NAMESPACES, {"metadata": {"name": namespace}})

    def _reach(self) -> None:
        if self.away:
            raise ClusterError("the API server is away")

    async def get(self, resource: Resource, name: str, namespace: str = "") -> Object:
        self._reach()
        return self.store.get(resource, name, namespace)

    async def list(
        self, resource: Resource, namespace: str = "", labels: str = "", fields: str = ""
    ) -> Sequence[Object]:
        self._reach()
        return self.store.list(resource, namespace, labels, fields)

    async def create(self, resource: Resource, body: Object, namespace: str = "", dry_run: bool = False) -> Object:
        self._reach()
        return self.store.create(resource, body, namespace, dry_run)

    async def patch(
        self, resource: Resource, name: str, body: Mapping[str, Any], namespace: str = "", subresource: str = ""
    ) -> Object:
        self._reach()
        patched = self.store.patch(resource, name, dict(body), namespace, subresource)
        self.patches.append(body)
        return patched

    async def delete(self, resource: Resource, name: str, namespace: str = "", uid: str = "") -> None:
        self._reach()
        self.store.delete(resource, name, namespace, uid)

    def watch(
        self, resource: Resource, namespace: str = "", labels: str = "", fields: str = ""
    ) -> AsyncIterator[WatchEvent]:
        return self.store.watch(resource, namespace, labels, fields)

    async def resource_for(self, api_version: str, kind: str) -> Resource:
        self._reach()
        for served in self.store.kinds:
            if (served.resource.api_version, served.resource.kind) == (api_version, kind):
                return served.resource
        raise NotFoundError(f"no {kind}")

    async def may(self, verb: str, resource: Resource, namespace: str = "", subresource: str = "") -> bool:
        return True

    async def whoami(self) -> str:
        return "node"

    async def close(self) -> None:
        return
