"""The Kubernetes REST API behind `tproxy.kube.port.Cluster`."""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import aiohttp

from tproxy.errors import ClusterError
from tproxy.kube import port
from tproxy.kube.config import ClusterConfig
from tproxy.kube.errors import Call, ExpiredError, NotFoundError
from tproxy.kube.port import Object, Resource, WatchEvent
from tproxy.kube.transport import REQUEST_SECONDS, Transport, read_bounded
from tproxy.kube.watch import follow

FIELD_MANAGER = "tproxy"
PAGE = 500
MAX_OBJECTS = 200_000

_REDISCOVER_SECONDS = 30.0
_KNOWN = tuple(value for value in vars(port).values() if isinstance(value, Resource))


class ApiCluster:
    """A cluster as `config` reaches it. Use inside one event loop; `close` it in the end."""

    def __init__(self, config: ClusterConfig) -> None:
        self.config = config
        self.transport = Transport(config)
        self._resources = {(known.api_version, known.kind): known for known in _KNOWN}
        self._discovered: dict[str, float] = {}

    async def get(self, resource: Resource, name: str, namespace: str = "") -> Object:
        """Read one object."""
        return await self.transport.json(
            "GET", _path(resource, namespace, name), Call.on("get", resource, namespace, name)
        )

    async def list(
        self, resource: Resource, namespace: str = "", labels: str = "", fields: str = ""
    ) -> Sequence[Object]:
        """List all objects, in every namespace if `namespace` is empty. `labels` and `fields` are selectors."""
        return (await self._list(resource, namespace, _selectors(labels, fields)))[0]

    async def create(self, resource: Resource, body: Object, namespace: str = "", dry_run: bool = False) -> Object:
        """Create one object and return it as stored."""
        query = {"fieldManager": FIELD_MANAGER} | ({"dryRun": "All"} if dry_run else {})
        return await self.transport.json(
            "POST", _path(resource, namespace), Call.on("create", resource, namespace), query, body
        )

    async def patch(
        self, resource: Resource, name: str, body: Mapping[str, Any], namespace: str = "", subresource: str = ""
    ) -> Object:
        """JSON merge patch (RFC 7396) of an object or of its `status` subresource."""
        return await self.transport.json(
            "PATCH",
            _path(resource, namespace, name, subresource),
            Call.on("patch", resource, namespace, name, subresource),
            {"fieldManager": FIELD_MANAGER},
            body,
        )

    async def delete(self, resource: Resource, name: str, namespace: str = "", uid: str = "") -> None:
        """Delete one object, if `uid` is given only while it still is that one. Deleting what is gone succeeds."""
        body: Object = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if uid:
            body["preconditions"] = {"uid": uid}
        call = Call.on("delete", resource, namespace, name)
        try:
            await self.transport.json("DELETE", _path(resource, namespace, name), call, body=body)
        except NotFoundError:
            return

    def watch(
        self, resource: Resource, namespace: str = "", labels: str = "", fields: str = ""
    ) -> AsyncGenerator[WatchEvent, None]:
        """List, then follow changes for ever: reconnects, lists afresh on 410, drops nothing."""
        return follow(_Watched(self, resource, namespace, _selectors(labels, fields)))

    async def resource_for(self, api_version: str, kind: str) -> Resource:
        """Find by discovery (cached) where a kind is served."""
        key = (api_version, kind)
        asked = self._discovered.get(api_version, float("-inf"))
        if key not in self._resources and time.monotonic() - asked >= _REDISCOVER_SECONDS:
            await self._discover(api_version)
            self._discovered[api_version] = time.monotonic()
        if key not in self._resources:
            raise NotFoundError(f"the cluster does not serve {kind} of {api_version}")
        return self._resources[key]

    async def log(
        self, namespace: str, pod: str, previous: bool = False, lines: int = 1000, limit: int = 1 << 20
    ) -> str:
        """The last lines, at most `limit` bytes of them, that a pod's only container has logged, or the `previous` one.

        Not a part of `Cluster`: only who gathers logs wants it.
        """
        call = Call.on("get", port.PODS, namespace, pod, "log")
        query = {"tailLines": str(lines), "limitBytes": str(limit), **({"previous": "true"} if previous else {})}
        path = _path(port.PODS, namespace, pod, "log")
        async with self.transport.stream("GET", path, call, query) as response, asyncio.timeout(REQUEST_SECONDS):
            return (await read_bounded(response.content, limit + 1, call)).decode(errors="replace")

    async def may(self, verb: str, resource: Resource, namespace: str = "", subresource: str = "") -> bool:
        """Whether the current user has this right (SelfSubjectAccessReview)."""
        attributes = {
            "verb": verb,
            "group": resource.group,
            "resource": resource.plural,
            "subresource": subresource,
            "namespace": namespace,
        }
        answer = await self.transport.json(
            "POST",
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            Call("create", "selfsubjectaccessreviews", "authorization.k8s.io"),
            body={
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SelfSubjectAccessReview",
                "spec": {"resourceAttributes": {key: value for key, value in attributes.items() if value}},
            },
        )
        status = answer.get("status")
        return isinstance(status, dict) and status.get("allowed") is True

    async def whoami(self) -> str:
        """The user name the API server sees (SelfSubjectReview), or an empty string if it cannot say."""
        try:
            answer = await self.transport.json(
                "POST",
                "/apis/authentication.k8s.io/v1/selfsubjectreviews",
                Call("create", "selfsubjectreviews", "authentication.k8s.io"),
                body={"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"},
            )
            name = answer["status"]["userInfo"]["username"]
        except (NotFoundError, KeyError, TypeError):
            return ""
        return name if isinstance(name, str) else ""

    async def close(self) -> None:
        """Release connections."""
        await self.transport.close()

    async def _discover(self, api_version: str) -> None:
        group, _, version = api_version.rpartition("/")
        path = (
            f"/apis/{quote(group, safe='')}/{quote(version, safe='')}" if group else f"/api/{quote(version, safe='')}"
        )
        answer = await self.transport.json("GET", path, Call("get", api_version))
        listed = answer.get("resources")
        for item in listed if isinstance(listed, list) else ():
            if not isinstance(item, dict):
                continue
            name, kind = item.get("name"), item.get("kind")
            # A slash marks a subresource.
            if isinstance(name, str) and isinstance(kind, str) and "/" not in name:
                found = Resource(group, version, name, kind, namespaced=bool(item.get("namespaced")))
                self._resources.setdefault((api_version, kind), found)

    async def _list(
        self, resource: Resource, namespace: str, selectors: Mapping[str, str]
    ) -> tuple[Sequence[Object], str]:
        """All pages of a list, and its resource version."""
        try:
            return await self._pages(resource, namespace, {**selectors, "limit": str(PAGE)})
        except ExpiredError:
            # The list took so long that its snapshot is gone: get it in one piece.
            return await self._pages(resource, namespace, selectors)

    async def _pages(
        self, resource: Resource, namespace: str, query: Mapping[str, str]
    ) -> tuple[Sequence[Object], str]:
        call = Call.on("list", resource, namespace)
        path = _path(resource, namespace)
        objects: list[Object] = []
        token = ""
        while True:
            answer = await self.transport.json("GET", path, call, {**query, **({"continue": token} if token else {})})
            items, metadata = answer.get("items"), answer.get("metadata")
            items = [] if items is None else items
            if not isinstance(items, list) or not isinstance(metadata, dict):
                raise ClusterError(f"the answer to list {call.kind} is no list")
            for item in items:
                objects.append(_checked(item, resource))
            if len(objects) > MAX_OBJECTS:
                raise ClusterError(f"there are more than {MAX_OBJECTS} {call.kind}{call.place}")
            token = metadata.get("continue") or ""
            if not token:
                return objects, str(metadata.get("resourceVersion", ""))


@dataclass(frozen=True, slots=True)
class _Watched:
    """A `tproxy.kube.watch.Source`."""

    cluster: ApiCluster
    resource: Resource
    namespace: str
    selectors: Mapping[str, str]

    @property
    def what(self) -> str:
        call = Call.on("watch", self.resource, self.namespace)
        return call.kind + call.place

    async def list(self) -> tuple[Sequence[Object], str]:
        return await self.cluster._list(self.resource, self.namespace, self.selectors)

    def open(self, version: str, seconds: int) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        return self.cluster.transport.stream(
            "GET",
            _path(self.resource, self.namespace),
            Call.on("watch", self.resource, self.namespace),
            {
                **self.selectors,
                "watch": "true",
                "allowWatchBookmarks": "true",
                "resourceVersion": version,
                "timeoutSeconds": str(seconds),
            },
        )


def _path(resource: Resource, namespace: str = "", name: str = "", subresource: str = "") -> str:
    parts = ["apis", resource.group, resource.version] if resource.group else ["api", resource.version]
    if namespace and resource.namespaced:
        parts += ["namespaces", namespace]
    parts.append(resource.plural)
    parts += [part for part in (name, subresource) if part]
    return "".join("/" + quote(part, safe="") for part in parts)


def _selectors(labels: str, fields: str) -> dict[str, str]:
    return {key: value for key, value in (("labelSelector", labels), ("fieldSelector", fields)) if value}


def _checked(item: object, resource: Resource) -> Object:
    """An item of a list, with the kind that lists leave out of their items."""
    metadata = item.get("metadata") if isinstance(item, dict) else None
    if not isinstance(item, dict) or not isinstance(metadata, dict) or not isinstance(metadata.get("uid"), str):
        raise ClusterError(f"a list of {resource.plural} holds something that is no {resource.kind}")
    return {"apiVersion": resource.api_version, "kind": resource.kind} | item
