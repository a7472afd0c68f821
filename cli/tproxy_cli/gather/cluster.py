"""The cluster's part: our objects, the node daemons' pods, logs and words, nodes and events, as far as the user may."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from tproxy.errors import TproxyError
from tproxy.kube.api import ApiCluster
from tproxy.kube.config import load
from tproxy.kube.port import INTERCEPTS, NODES, PODS, SESSIONS, Object, Resource
from tproxy_cli.client import Json
from tproxy_cli.doctor.cluster import check
from tproxy_cli.doctor.nodes import NODE_DAEMON_LABELS, SYSTEM_NAMESPACE
from tproxy_cli.gather import objects, secrets
from tproxy_cli.gather.archive import Archive

SECONDS = 20.0
"""How long the API server may take for one thing."""

LOG_LINES = 20_000
LOG_BYTES = 16 << 20

NODES_ASKED = 50
"""Of so many node daemons the logs are gathered."""

EVENTS = Resource("", "v1", "events", "Event")

T = TypeVar("T")


async def gather(archive: Archive, cluster: Json, namespaces: Sequence[str], tell: Callable[[str], None]) -> list[str]:
    """Add it all, the objects of `namespaces` (empty: of the context's); returns the nodes that have a daemon."""
    tell("asking the cluster")
    try:
        config = await asyncio.to_thread(load, cluster["kubeconfig"], cluster["context"])
    except TproxyError as error:
        archive.lacks("cluster", error.message)
        return []
    namespace = cluster["namespace"] or config.namespace
    findings = await check(cluster["kubeconfig"], cluster["context"], namespace)
    archive.data("doctor.json", [finding.data() for finding in findings])
    api = ApiCluster(config)
    try:
        parts = _Parts(archive, api)
        for one in dict.fromkeys([*(namespaces or (namespace,)), SYSTEM_NAMESPACE]):
            await parts.intercepts(one)
            await parts.listed(f"cluster/{one}/sessions.json", objects.session, SESSIONS, one)
        await parts.listed("cluster/nodes.json", objects.node, NODES)
        await parts.listed(f"cluster/{SYSTEM_NAMESPACE}/events.json", objects.event, EVENTS, SYSTEM_NAMESPACE)
        pods = await parts.listed(
            f"cluster/{SYSTEM_NAMESPACE}/pods.json", objects.pod, PODS, SYSTEM_NAMESPACE, NODE_DAEMON_LABELS
        )
        tell(f"gathering the logs of {min(len(pods), NODES_ASKED)} node daemons")
        for pod in pods[:NODES_ASKED]:
            await parts.logs(pod)
        for pod in pods[NODES_ASKED:]:
            archive.lacks(f"nodes/{_node(pod)}", f"only the logs of {NODES_ASKED} nodes are gathered")
        return [_node(pod) for pod in pods[:NODES_ASKED]]
    finally:
        await api.close()


class _Parts:
    def __init__(self, archive: Archive, api: ApiCluster) -> None:
        self._archive = archive
        self._api = api

    async def listed(
        self,
        name: str,
        show: Callable[[Mapping[str, Any]], Json],
        resource: Resource,
        namespace: str = "",
        labels: str = "",
    ) -> Sequence[Object]:
        """Add what there is of a kind."""
        found = await self._had(name, self._api.list(resource, namespace, labels=labels))
        if found is not None:
            self._archive.data(name, [show(one) for one in found])
        return found or ()

    async def intercepts(self, namespace: str) -> None:
        """Add a namespace's Intercepts, and remember what they match by before anything else is written."""
        name = f"cluster/{namespace}/intercepts.json"
        found = await self._had(name, self._api.list(INTERCEPTS, namespace))
        if found is not None:
            self._archive.cleaner.learn(
                value for one in found for value in secrets.of_match((one.get("spec") or {}).get("match"))
            )
            self._archive.data(name, [objects.intercept(one) for one in found])

    async def logs(self, pod: Object) -> None:
        """Add what a node daemon has logged, and what the one before it has if it was restarted."""
        metadata, node = pod["metadata"], _node(pod)
        restarted = any(one.get("restartCount") for one in (pod.get("status") or {}).get("containerStatuses") or [])
        for name, previous in (("daemon.log", False), *((("previous.log", True),) if restarted else ())):
            where = f"nodes/{node}/{name}"
            text = await self._had(
                where, self._api.log(metadata["namespace"], metadata["name"], previous, LOG_LINES, LOG_BYTES)
            )
            if text is not None:
                self._archive.text(where, text)

    async def _had(self, name: str, call: Awaitable[T]) -> T | None:
        try:
            async with asyncio.timeout(SECONDS):
                return await call
        except TimeoutError:
            self._archive.lacks(name, f"no answer within {SECONDS:.0f} s")
        except TproxyError as error:
            self._archive.lacks(name, error.message)
        return None


def _node(pod: Mapping[str, Any]) -> str:
    return str((pod.get("spec") or {}).get("nodeName") or pod["metadata"]["name"])
