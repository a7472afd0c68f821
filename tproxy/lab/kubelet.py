"""One node's part in running pods: those that the store says are on this node, until they are deleted."""

import asyncio
import socket
from collections.abc import AsyncIterator

from tproxy.kube.errors import NotFoundError, StaleError
from tproxy.kube.port import CONFIGMAPS, NODES, PODS, SECRETS, Applied, Object, Removed, Resource
from tproxy.lab import logs
from tproxy.lab.api.errors import BadRequestError
from tproxy.lab.api.store import Store, now
from tproxy.lab.layout import Layout
from tproxy.lab.pod import NodeContext, PodRunner
from tproxy.tasks import Tasks

VERSION = "v1.34.0+tproxy-lab"
_LOG_CHECK_SECONDS = 2.0


class Kubelet:
    """Runs the pods of one node."""

    def __init__(self, context: NodeContext) -> None:
        self._context = context
        self._runners: dict[str, PodRunner] = {}
        self._ending: set[str] = set()
        self._tasks = Tasks(f"lab-kubelet-{context.node.name}")

    def start(self) -> None:
        """Register the node and follow its pods."""
        self._context.store.create(NODES, self._node_object())
        self._tasks.start(self._follow(), "pods")
        self._tasks.start(self._cut_logs(), "logs")
        for resource in (CONFIGMAPS, SECRETS):
            self._tasks.start(self._follow_sources(resource), resource.plural)

    async def close(self) -> None:
        """Stop following; what runs goes on running."""
        await self._tasks.close()

    def runner(self, uid: str) -> PodRunner | None:
        """The runner of a pod of this node."""
        return self._runners.get(uid)

    async def _follow(self) -> None:
        own = f"spec.nodeName={self._context.node.name}"
        async for event in self._context.store.watch(PODS, fields=own):
            match event:
                case Applied(pod) if "deletionTimestamp" in pod["metadata"]:
                    self._end(pod, pod["metadata"].get("deletionGracePeriodSeconds", 0))
                case Applied(pod):
                    self._begin(pod)
                case Removed(pod):
                    self._forced(pod)

    async def _follow_sources(self, resource: Resource) -> None:
        async for event in self._context.store.watch(resource):
            if isinstance(event, Applied):
                for runner in list(self._runners.values()):
                    runner.refresh_volumes()

    def _begin(self, pod: Object) -> None:
        uid = pod["metadata"]["uid"]
        if uid not in self._runners:
            self._runners[uid] = PodRunner(self._context, pod)
            self._runners[uid].start()

    def _end(self, pod: Object, grace_seconds: float) -> None:
        uid = pod["metadata"]["uid"]
        if uid not in self._ending:
            self._ending.add(uid)
            self._tasks.start(self._stop(pod, grace_seconds), f"stop {pod['metadata']['name']}")

    def _forced(self, pod: Object) -> None:
        """The object is gone; what it stood for must not outlive it for long."""
        runner = self._runners.get(pod["metadata"]["uid"])
        if runner is not None:
            self._end(pod, 0)
            runner.kill()

    async def _stop(self, pod: Object, grace_seconds: float) -> None:
        metadata = pod["metadata"]
        if (runner := self._runners.get(metadata["uid"])) is not None:
            await runner.stop(grace_seconds)
            del self._runners[metadata["uid"]]
        try:
            self._context.store.delete(
                PODS, metadata["name"], metadata["namespace"], uid=metadata["uid"], grace_seconds=0
            )
        except (NotFoundError, StaleError):
            return
        finally:
            self._ending.discard(metadata["uid"])

    async def _cut_logs(self) -> None:
        while True:
            await asyncio.sleep(_LOG_CHECK_SECONDS)
            for runner in self._runners.values():
                runner.cut_logs()

    def _node_object(self) -> Object:
        node, since = self._context.node, now()
        networks = list(node.pod_networks)
        return {
            "metadata": {
                "name": node.name,
                "labels": {
                    "kubernetes.io/hostname": node.name,
                    "kubernetes.io/os": "linux",
                },
            },
            "spec": {"podCIDR": networks[0], "podCIDRs": networks},
            "status": {
                "addresses": [
                    *({"type": "InternalIP", "address": address} for address in node.addresses),
                    {"type": "Hostname", "address": node.name},
                ],
                "conditions": [
                    {
                        "type": "Ready",
                        "status": "True",
                        "reason": "KubeletReady",
                        "message": "the lab server runs this node",
                        "lastTransitionTime": since,
                        "lastHeartbeatTime": since,
                    }
                ],
                "nodeInfo": {"kubeletVersion": VERSION, "operatingSystem": "linux"},
                "capacity": {"pods": "253"},
                "allocatable": {"pods": "253"},
            },
        }


class PodAccess:
    """What the API server offers of running pods: connections into them, and their logs."""

    def __init__(self, layout: Layout, store: Store, kubelets: list[Kubelet]) -> None:
        self._layout = layout
        self._store = store
        self._kubelets = kubelets

    async def dial(self, namespace: str, name: str, port: int) -> socket.socket:
        """Connect to a port on a pod's own loopback, as a container runtime forwards ports. Raises OSError."""
        uid = self._store.get(PODS, name, namespace)["metadata"]["uid"]
        runner = next((runner for kubelet in self._kubelets if (runner := kubelet.runner(uid))), None)
        if runner is None or runner.netns is None:
            raise ConnectionRefusedError(f"pod {namespace}/{name} does not run")
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            sock = runner.netns.socket(family, socket.SOCK_STREAM)
            sock.setblocking(False)
            try:
                await asyncio.get_running_loop().sock_connect(sock, (address, port))
            except ConnectionRefusedError:
                sock.close()
            except BaseException:
                sock.close()
                raise
            else:
                return sock
        raise ConnectionRefusedError(f"nothing listens on port {port} of the pod's loopback")

    async def read_logs(
        self, namespace: str, name: str, container: str, keep_following: bool, tail: int | None
    ) -> AsyncIterator[bytes]:
        """A container's log. Raises BadRequestError if the pod has no such container or has not started it."""
        pod = self._store.get(PODS, name, namespace)
        names = [spec["name"] for spec in pod["spec"]["containers"]]
        chosen = container or names[0]
        if chosen not in names:
            raise BadRequestError(f"container {chosen} is not valid for pod {name}; it has {', '.join(names)}")
        path = self._layout.log_directory(namespace, name, pod["metadata"]["uid"]) / f"{chosen}.log"
        if not path.exists():
            raise BadRequestError(f'container "{chosen}" in pod "{name}" is waiting to start')
        async for chunk in logs.follow(path, keep_following, tail):
            yield chunk
