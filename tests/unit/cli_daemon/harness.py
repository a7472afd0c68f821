"""A cluster for the daemon to work with: the lab's API server, and node daemons without the kernel part.

A `NodeStandIn` is the node daemon's own parts (watches, session check, tunnel server, decisions, status) with pods that
count as steered as soon as they should be. Everything runs in the test's event loop.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web
from tproxy_cli.daemon.engine import Engine
from tproxy_cli.daemon.requests import InterceptRequest, LeaveRequest, ListRequest
from tproxy_cli.daemon.state import StateFile
from tproxy_node.desired import PodRoutes, View, desire
from tproxy_node.direct import DirectDoor
from tproxy_node.mirror import Mirror
from tproxy_node.opening import Identity, Openings
from tproxy_node.options import Direct, Listen, PodName
from tproxy_node.sessions import Sessions
from tproxy_node.status import StatusWriter

from tproxy.kube.api import ApiCluster
from tproxy.kube.config import load
from tproxy.kube.port import DEPLOYMENTS, NAMESPACES, NODES, PODS, SERVICES
from tproxy.lab.api import admission, authn, rbac
from tproxy.lab.api.app import make_app
from tproxy.lab.api.resources import Kind, builtin_kinds, custom_kinds
from tproxy.lab.api.store import Store, suffix
from tproxy.lab.controllers import garbage
from tproxy.lab.controllers.loop import Controller, run
from tproxy.model.flow import Address, FlowKind, OpenRequest, ResetReason
from tproxy.model.intercept import InterceptPort
from tproxy.rpc.server import TunnelServer
from tproxy.tasks import Tasks
from tproxy.tunnel.endpoint import Conn

Json = dict[str, Any]

SYSTEM = "tproxy-system"
USERS = {
    "ann": authn.admin("ann"),
    "bob": authn.admin("bob"),
    "node": authn.admin("node"),
    "dev": rbac.developer("dev", "shop"),
    "viewer": authn.viewer("viewer"),
    # As of servers that want `create` for a port-forward although it is a GET.
    "getter": authn.User(
        "getter",
        rules=(
            authn.Rule(authn.READ, frozenset({"*"})),
            authn.Rule(authn.WRITE, frozenset({"sessions.tproxy.dev", "intercepts.tproxy.dev"})),
            authn.Rule(frozenset({"get"}), frozenset({"pods/portforward"})),
        ),
    ),
}


@dataclass
class Client:
    """A client of a pod, at the node's end of the tunnel; a `ConnSink` that keeps what it hears."""

    received: bytearray = field(default_factory=bytearray)
    opened: bool = False
    ended: bool = False
    reset: ResetReason | None = None
    conn: Conn | None = None
    datagrams: list[bytes] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def conn_opened(self) -> None:
        self.opened = True
        self.news.set()

    def conn_data(self, data: bytes) -> None:
        self.received += data
        assert self.conn is not None
        self.conn.consumed(len(data))
        self.news.set()

    def conn_eof(self) -> None:
        self.ended = True
        self.news.set()

    def conn_reset(self, reason: ResetReason, detail: str) -> None:
        self.reset = reason
        self.news.set()

    def conn_pause(self) -> None:
        """Tests send little."""

    def conn_resume(self) -> None:
        """Tests send little."""


class NodeStandIn:
    """The daemon of one node, in one process with the test."""

    def __init__(self, name: str, cluster: ApiCluster) -> None:
        self.name = name
        self.port = 0
        self.silent = False
        """Hears everything, says nothing."""
        self.steered: dict[str, PodRoutes] = {}
        self._cluster = cluster
        self._changed = asyncio.Event()
        self.openings = Openings()
        self.sessions = Sessions(cluster, self._changed.set, openings=self.openings)
        self._mirror = Mirror(name, self._changed.set, self.sessions.applied, self.sessions.removed)
        self._statuses = StatusWriter(cluster, name)
        self._server = TunnelServer[Identity](name, self.sessions.authenticate, self.sessions.add)
        self._exposed: DirectDoor | None = None
        self._exposed_server = TunnelServer[Identity](name, self.sessions.authenticate, self.sessions.add)
        self._tasks = Tasks(name)

    async def expose(self, pod: str) -> None:
        """Open the direct door of the daemon whose pod is `pod`."""
        options = Direct(Listen("127.0.0.1", 0), "127.0.0.1", 0, PodName(SYSTEM, pod))
        self._exposed = DirectDoor(self._exposed_server, options)
        await self._exposed.start(self._cluster)

    async def start(self) -> None:
        self.port = await self._server.start("127.0.0.1", 0)
        self._mirror.start(self._cluster)
        self._tasks.start(self._reconcile(), "reconcile")

    async def stop(self) -> None:
        await self._mirror.close()
        await self._tasks.close()
        await self.sessions.close()
        await self._statuses.close()
        await self._server.stop()
        if self._exposed is not None:
            await self._exposed.close()
        await self._exposed_server.stop()

    def connect(self, port: int = 8080, intercept: str = "", protocol: str = "TCP") -> Client:
        """A client of a steered pod; `intercept` is a UID, by default the one that has the port."""
        for routes in self.steered.values():
            route = routes.get(InterceptPort(port, protocol))
            endpoint = self.sessions.pick(route.session) if route is not None else None
            if route is not None and endpoint is not None:
                client = Client()
                request = OpenRequest(
                    FlowKind.INBOUND,
                    Address("10.244.1.5", port),
                    Address("10.99.0.100", 40000),
                    intercept or route.intercept,
                    "shop/web-0",
                    protocol.lower(),
                )
                client.conn = endpoint.open(request, client)
                client.conn.on_datagram = client.datagrams.append
                return client
        raise AssertionError(f"nothing steers port {port} on {self.name}")

    async def _reconcile(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._mirror.missing or self.silent:
                continue
            self.steered = dict(self._desired().routes)
            self._statuses.observe(self._mirror.intercepts)
            self._statuses.want(self._desired().statuses)

    def _desired(self) -> Any:
        pods = self._mirror.pods
        return desire(
            View(
                pods=pods,
                chains={pod.uid: [(owner.kind, owner.name) for owner in pod.owners] for pod in pods},
                services=self._mirror.services,
                sessions=self.sessions.all(),
                intercepts=self._mirror.intercepts,
                live=self.sessions.live(),
                steered=self.steered,
            )
        )


class Stage:
    """The cluster, and laptops in it."""

    def __init__(self, directory: Path, kinds: Sequence[Kind]) -> None:
        self.directory = directory
        self.store = Store(kinds)
        self.nodes: dict[str, NodeStandIn] = {}
        self._engines: list[Engine] = []
        self._clusters: list[ApiCluster] = []
        self.server = ""

    async def dial(self, namespace: str, name: str, port: int) -> socket.socket:
        """Where port-forwards to node daemons end."""
        node = self.nodes[self.store.get(PODS, name, namespace)["spec"]["nodeName"]]
        sock = socket.socket()
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", node.port))
        except BaseException:
            sock.close()
            raise
        return sock

    async def add_node(self, name: str) -> NodeStandIn:
        """A node with its daemon."""
        self.store.create(NODES, {"metadata": {"name": name}})
        return await self.add_daemon(name)

    async def add_daemon(self, name: str) -> NodeStandIn:
        """A daemon for a node that has none."""
        labels = {"app.kubernetes.io/name": "tproxy", "app.kubernetes.io/component": "node"}
        self.add_pod(f"tproxy-node-{suffix()}", name, namespace=SYSTEM, labels=labels)
        cluster = ApiCluster(load(self.kubeconfig("node")))
        self._clusters.append(cluster)
        node = self.nodes[name] = NodeStandIn(name, cluster)
        await node.start()
        return node

    def add_pod(
        self, name: str, node: str, *, namespace: str = "shop", labels: Json | None = None, **spec: Any
    ) -> Json:
        """A running pod of the Deployment `web`, or with other labels of nothing."""
        metadata: Json = {"name": name, "labels": labels or {"app": "web"}}
        if labels is None:
            owner = self.store.get(DEPLOYMENTS, "web", namespace)["metadata"]
            metadata["ownerReferences"] = [
                {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": owner["uid"], "controller": True}
            ]
        container = {"name": "main", "image": "x", "ports": [{"name": "http", "containerPort": 8080}]}
        self.store.create(
            PODS, {"metadata": metadata, "spec": {"nodeName": node, "containers": [container], **spec}}, namespace
        )
        status = {"phase": "Running", "podIP": "10.244.1.5", "conditions": [{"type": "Ready", "status": "True"}]}
        return self.store.patch(PODS, name, {"status": status}, namespace, "status")

    def kubeconfig(self, user: str) -> str:
        """A kubeconfig file of `user`."""
        path = self.directory / f"kubeconfig-{user}"
        if not path.exists():
            document = {
                "current-context": "lab",
                "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": user, "namespace": "shop"}}],
                "clusters": [{"name": "lab", "cluster": {"server": self.server}}],
                "users": [{"name": user, "user": {"token": user}}],
            }
            path.write_text(yaml.safe_dump(document))
        return str(path)

    def laptop(self, user: str = "ann", state: str = "") -> "Laptop":
        """A laptop daemon of `user`; with the `state` of an earlier one it is that one restarted."""
        engine = Engine(StateFile(self.directory / f"{state or user}.json"), self.directory / f"forward-{user}")
        self._engines.append(engine)
        engine.start()
        return Laptop(engine, {"cluster": {"kubeconfig": self.kubeconfig(user)}})

    async def expose(self, node: str) -> str:
        """Open the direct door of a node's daemon, and wait until its pod says so; the pod's name."""

        def pod() -> Json:
            pods = [each for each in self.store.list(PODS, SYSTEM) if each["spec"]["nodeName"] == node]
            return pods[0]

        name = str(pod()["metadata"]["name"])
        await self.nodes[node].expose(name)
        await until(lambda: pod()["metadata"].get("annotations"), "a published address")
        return name

    async def close(self) -> None:
        for engine in self._engines:
            await engine.suspend()
            await engine.close()
        for node in self.nodes.values():
            await node.stop()
        for cluster in self._clusters:
            await cluster.close()


@dataclass
class Laptop:
    """A laptop daemon's operations, as the command line asks for them."""

    engine: Engine
    where: Json
    said: list[str] = field(default_factory=list)

    async def intercept(self, target: str = "web", *ports: str, seconds: float = 10.0, **options: Any) -> Json:
        body = self.where | {"target": target, "ports": ports or ["3000"], "timeoutSeconds": seconds} | options
        body["ports"] = list(body["ports"])
        return await self.engine.intercept(InterceptRequest.of(body), self.said.append)

    async def leave(self, *names: str, everything: bool = False, force: bool = False) -> Json:
        body = self.where | {"names": list(names), "all": everything, "force": force}
        return await self.engine.leave(LeaveRequest.of(body), self.said.append)

    async def list(self) -> list[Json]:
        answer = await self.engine.list_intercepts(ListRequest.of(self.where))
        listed: list[Json] = answer["intercepts"]
        return listed


@asynccontextmanager
async def staged(
    directory: Path, nodes: Sequence[str] = ("node1",), pods: int = 1, crds: bool = True
) -> AsyncIterator[Stage]:
    """A cluster with a Deployment and a Service `web` in namespace `shop`, its pods spread over the nodes."""
    stage = Stage(directory, [*builtin_kinds(), *(custom_kinds() if crds else ())])
    admission.install(stage.store)
    runner = web.AppRunner(make_app(stage.store, USERS, stage.dial, _no_logs), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    stage.server = "http://{}:{}".format(*runner.addresses[0])
    tasks = Tasks("stage")
    kinds = [kind.resource for kind in stage.store.kinds]
    tasks.start(run(stage.store, Controller("garbage", garbage.reconcile, kinds)), "garbage")
    for namespace in ("shop", SYSTEM):
        if not any(each["metadata"]["name"] == namespace for each in stage.store.list(NAMESPACES)):
            stage.store.create(NAMESPACES, {"metadata": {"name": namespace}})
    template = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "main", "image": "x"}]}}
    selector = {"matchLabels": {"app": "web"}}
    stage.store.create(
        DEPLOYMENTS, {"metadata": {"name": "web"}, "spec": {"selector": selector, "template": template}}, "shop"
    )
    ports = [{"name": "web", "port": 80, "targetPort": "http"}]
    stage.store.create(
        SERVICES, {"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": ports}}, "shop"
    )
    try:
        for node in nodes:
            await stage.add_node(node)
        for number in range(pods):
            stage.add_pod(f"web-{number}", nodes[number % len(nodes)])
        yield stage
    finally:
        await stage.close()
        await tasks.close()
        await runner.cleanup()


async def _no_logs(namespace: str, name: str, container: str, follow: bool, tail: int | None) -> AsyncIterator[bytes]:
    for line in ():
        yield line


@asynccontextmanager
async def local_app(answer: bytes = b"from the laptop") -> AsyncIterator[int]:
    """An app on the laptop that answers each connection once it has said something; its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.read(1000):
            writer.write(answer)
            await writer.drain()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def until(condition: Any, what: str, seconds: float = 10.0) -> Any:
    """Wait for a condition with a deadline; what it returned."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not (found := condition()):
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        await asyncio.sleep(0.01)
    return found
