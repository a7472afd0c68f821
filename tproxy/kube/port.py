"""What tproxy needs of a Kubernetes API, as protocols; `tproxy.kube.api` is the adapter."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Object = dict[str, Any]
"""One Kubernetes object as decoded JSON."""


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind and where the API serves it. `group` is empty for the core group."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """`v1` or `group/version`, as objects carry it."""
        return f"{self.group}/{self.version}" if self.group else self.version


NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
NODES = Resource("", "v1", "nodes", "Node", namespaced=False)
PODS = Resource("", "v1", "pods", "Pod")
SERVICES = Resource("", "v1", "services", "Service")
CONFIGMAPS = Resource("", "v1", "configmaps", "ConfigMap")
SECRETS = Resource("", "v1", "secrets", "Secret")
ENDPOINTSLICES = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment")
REPLICASETS = Resource("apps", "v1", "replicasets", "ReplicaSet")
STATEFULSETS = Resource("apps", "v1", "statefulsets", "StatefulSet")
DAEMONSETS = Resource("apps", "v1", "daemonsets", "DaemonSet")
JOBS = Resource("batch", "v1", "jobs", "Job")
SESSIONS = Resource("tproxy.dev", "v1alpha1", "sessions", "Session")
INTERCEPTS = Resource("tproxy.dev", "v1alpha1", "intercepts", "Intercept")


@dataclass(frozen=True, slots=True)
class Applied:
    """The object exists and looks like this now."""

    object: Object


@dataclass(frozen=True, slots=True)
class Removed:
    """The object is gone; this is its last known form."""

    object: Object


@dataclass(frozen=True, slots=True)
class Synced:
    """Everything that existed when the watch began has been delivered (again, after each fresh list)."""


WatchEvent = Applied | Removed | Synced


class Cluster(Protocol):
    """The Kubernetes API as the current user sees it.

    Every call raises `TproxyError` (`ClusterError`, `DeniedError`); `get` raises `NotFoundError`, `create` raises
    `AlreadyExistsError`, an outdated patch or precondition `StaleError` (all in `tproxy.kube.errors`).
    """

    async def get(self, resource: Resource, name: str, namespace: str = "") -> Object:
        """Read one object."""
        ...

    async def list(
        self, resource: Resource, namespace: str = "", labels: str = "", fields: str = ""
    ) -> Sequence[Object]:
        """List all objects, in every namespace if `namespace` is empty. `labels` and `fields` are selectors."""
        ...

    async def create(self, resource: Resource, body: Object, namespace: str = "", dry_run: bool = False) -> Object:
        """Create one object and return it as stored."""
        ...

    async def patch(
        self, resource: Resource, name: str, body: Mapping[str, Any], namespace: str = "", subresource: str = ""
    ) -> Object:
        """JSON merge patch (RFC 7396) of an object or of its `status` subresource."""
        ...

    async def delete(self, resource: Resource, name: str, namespace: str = "", uid: str = "") -> None:
        """Delete one object, if `uid` is given only while it still is that one. Deleting what is gone succeeds."""
        ...

    def watch(
        self, resource: Resource, namespace: str = "", labels: str = "", fields: str = ""
    ) -> AsyncIterator[WatchEvent]:
        """List, then follow changes for ever: reconnects, lists afresh on 410, drops nothing."""
        ...

    async def resource_for(self, api_version: str, kind: str) -> Resource:
        """Find by discovery (cached) where a kind is served."""
        ...

    async def may(self, verb: str, resource: Resource, namespace: str = "", subresource: str = "") -> bool:
        """Whether the current user has this right (SelfSubjectAccessReview)."""
        ...

    async def whoami(self) -> str:
        """The user name the API server sees (SelfSubjectReview), or an empty string if it cannot say."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...
