"""The whole lab, put together inside the lab server: network, places, API, controllers, DNS, Services, kubelets."""

import asyncio
import json
import os
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aiohttp import web

from tproxy.kube.port import ENDPOINTSLICES, SERVICES
from tproxy.lab import addresses as plan
from tproxy.lab import daemons, network
from tproxy.lab.addresses import Node, PodAddresses
from tproxy.lab.api import admission, rbac
from tproxy.lab.api.app import make_app
from tproxy.lab.api.authn import User, admin
from tproxy.lab.api.resources import builtin_kinds, custom_kinds
from tproxy.lab.api.store import Store
from tproxy.lab.controllers import loop as controllers
from tproxy.lab.dns import DnsServer, Zone
from tproxy.lab.front import ApiServer
from tproxy.lab.kubelet import Kubelet, PodAccess
from tproxy.lab.layout import DEVELOPERS, Layout
from tproxy.lab.pod import NodeContext
from tproxy.lab.records import Records
from tproxy.lab.sandbox import Sandbox, cluster_resolv_conf, write_etc
from tproxy.lab.services import ServiceProxy
from tproxy.tasks import Tasks

LAPTOP_USER = "developer"


class Stage:
    """A lab with `nodes` nodes. Containers without a `workingDir` run where the server does.

    `daemon_flags` are the node daemons' own, None for a lab without them.
    """

    def __init__(self, layout: Layout, nodes: int, daemon_flags: Sequence[str] | None) -> None:
        self._layout = layout
        self._nodes = [Node(index) for index in range(1, nodes + 1)]
        self._daemon_flags = daemon_flags
        flags = daemon_flags or ()
        self._open_port = daemons.DIRECT_PORT if any(flag.startswith("--direct=") for flag in flags) else 0
        self._working_directory = os.getcwd()
        self._records = Records(layout.records, self._facts())
        self._places: dict[str, Sandbox] = {}
        self._store = Store([*builtin_kinds(), *custom_kinds()])
        self._tasks = Tasks("lab")
        # Servers end when the last reference to them goes.
        self._kept: list[object] = []

    async def start(self, progress: Callable[[str], None]) -> None:
        """Bring everything up; `progress` is told what is under way. Raises TproxyError."""
        self._records.set_state("starting")
        progress("making the network")
        await self._make_places()
        progress("starting the API server")
        admission.install(self._store)
        controllers.start(self._store, self._tasks)
        kubelets = [self._kubelet(node) for node in self._nodes]
        await self._serve_api(PodAccess(self._layout, self._store, kubelets))
        await self._serve_dns()
        proxy = ServiceProxy(self._layout, self._nodes, self._store, self._records)
        await proxy.start()
        self._kept += [proxy, *kubelets]
        for kubelet in kubelets:
            kubelet.start()
        if self._daemon_flags is not None:
            progress("starting the node daemons")
            self._tasks.start(
                daemons.keep(self._layout, self._nodes, self._store, self._daemon_flags), "keep node daemons"
            )
            await daemons.wait_ready(self._layout, self._nodes, self._store)
        self._records.set_state("up")

    def _facts(self) -> dict[str, Any]:
        layout = self._layout
        return {
            "name": layout.name,
            "apiServer": {"url": plan.API_URL, "pid": os.getpid()},
            "kubeconfig": str(layout.laptop_kubeconfig),
            "nodes": [
                {"name": node.name, "netns": layout.netns(node.name), "addresses": list(node.addresses)}
                for node in self._nodes
            ],
            "laptop": {
                "netns": layout.netns("laptop"),
                "addresses": list(plan.LAPTOP),
                "environment": layout.laptop_environment,
            },
            "user": {"netns": layout.netns("user"), "addresses": list(plan.USER)},
        }

    async def _make_places(self) -> None:
        layout, places = self._layout, network.places(self._nodes)
        await network.create_netns([layout.netns(place) for place in places])
        for place in places:
            forwarding = place not in ("laptop", "user")
            network.configure(layout.netns(place), forwarding)
        router = layout.netns("router")
        await network.ip(router, network.stage_links(layout, self._nodes))
        await asyncio.gather(
            *(network.ip(router, network.laptop_rules(self._open_port), family) for family in ("-4", "-6")),
            *(
                network.ip(layout.netns(place), network.place_links(place, self._nodes))
                for place in places
                if place != "router"
            ),
            *(self._make_place(place) for place in places),
        )
        self._records.set_state("starting", holders={name: one.holder.pid for name, one in self._places.items()})

    async def _make_place(self, place: str) -> None:
        layout = self._layout
        directory, group = layout.place_directory(place), layout.place_cgroup(place) / "holder"
        group.mkdir(parents=True)
        resolv_conf = {
            "laptop": f"nameserver {plan.ROUTER_TO_LAPTOP[0]}\n",
            "user": cluster_resolv_conf("default"),
        }.get(place, cluster_resolv_conf())
        write_etc(directory, resolv_conf, [])
        if place == "laptop":
            for name in DEVELOPERS:
                os.mkdir(directory / name, 0o700)
            for environment in (layout.laptop_environment, *map(layout.developer_environment, DEVELOPERS)):
                for name, path in environment.items():
                    if name.startswith("XDG_"):
                        os.mkdir(path, 0o700)
        self._places[place] = await Sandbox.start(layout.netns(place), directory, place, group)

    def _kubelet(self, node: Node) -> Kubelet:
        return Kubelet(
            NodeContext(
                self._layout,
                node,
                self._places[node.name].netns,
                self._store,
                self._records,
                PodAddresses(node),
                self._working_directory,
            )
        )

    async def _serve_api(self, pods: PodAccess) -> None:
        laptop = admin(LAPTOP_USER)
        tokens: dict[str, User] = {}
        for path, user in (
            (self._layout.laptop_kubeconfig, laptop),
            *((self._layout.developer_kubeconfig(name), _person(name)) for name in DEVELOPERS),
            (self._layout.daemon_kubeconfig, daemons.user()),
        ):
            token = secrets.token_hex(32)
            tokens[token] = user
            write_kubeconfig(path, user.name, token)

        def application(*routes: web.RouteDef) -> web.Application:
            # kubectl sends no token over plain HTTP: the laptop is known by its address.
            peers = dict.fromkeys(plan.LAPTOP, admin(LAPTOP_USER))
            return make_app(self._store, tokens, pods.dial, pods.read_logs, peers, routes)

        def bind() -> list[socket.socket]:
            families = zip((socket.AF_INET, socket.AF_INET6), plan.ROUTER, strict=True)
            return [
                self._bound("router", family, socket.SOCK_STREAM, address, plan.API_PORT)
                for family, address in families
            ]

        server = ApiServer(self._store, application, bind, self._records.set_api_server)
        await server.start()
        runner = web.AppRunner(application(server.route), access_log=None, handle_signals=False)
        await runner.setup()
        self._kept += [server, runner]
        # umask: the file is root's alone from its first moment.
        before = os.umask(0o177)
        try:
            await web.UnixSite(runner, str(self._layout.api_socket)).start()
        finally:
            os.umask(before)

    async def _serve_dns(self) -> None:
        cluster, elsewhere = DnsServer(Zone(self._store)), DnsServer(Zone(None))
        self._kept += [cluster, elsewhere]
        families = (socket.AF_INET, socket.AF_INET6)
        for family, inside, laptop in zip(families, plan.ROUTER, plan.ROUTER_TO_LAPTOP, strict=True):
            # Bound to the nodes' link: the laptop reaches the router's addresses, but not this.
            await cluster.serve(*self._dns_sockets(family, inside, "br0"))
            await elsewhere.serve(*self._dns_sockets(family, laptop, "laptop"))
        for node in self._nodes:
            for family, address in zip(families, plan.NODE_DNS, strict=True):
                await cluster.serve(*self._dns_sockets(family, address, place=node.name))
        self._publish(
            "kube-system",
            "kube-dns",
            {"dns-udp": (plan.DNS_PORT, plan.DNS_PORT), "dns-tcp": (plan.DNS_PORT, plan.DNS_PORT)},
        )
        self._publish("default", "kubernetes", {"http": (80, plan.API_PORT)})

    def _dns_sockets(
        self, family: socket.AddressFamily, address: str, link: str = "", place: str = "router"
    ) -> Sequence[socket.socket]:
        kinds = (socket.SOCK_DGRAM, socket.SOCK_STREAM)
        return [self._bound(place, family, kind, address, plan.DNS_PORT, link) for kind in kinds]

    def _publish(self, namespace: str, name: str, ports: Mapping[str, tuple[int, int]]) -> None:
        """A Service for what runs on the router; `ports` are its own and the router's by name."""
        metadata = {"name": name, "namespace": namespace}
        entries = {one: {"name": one, "protocol": "UDP" if one.endswith("udp") else "TCP"} for one in ports}
        spec = {"ports": [entries[one] | {"port": port} for one, (port, _) in ports.items()]}
        self._store.create(SERVICES, {"metadata": metadata, "spec": spec | {"ipFamilyPolicy": "PreferDualStack"}})
        for family, address in zip(("IPv4", "IPv6"), plan.ROUTER, strict=True):
            labels = {"kubernetes.io/service-name": name}
            self._store.create(
                ENDPOINTSLICES,
                {
                    "metadata": metadata | {"name": f"{name}-{family.lower()}", "labels": labels},
                    "addressType": family,
                    "ports": [entries[one] | {"port": port} for one, (_, port) in ports.items()],
                    "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
                },
            )

    def _bound(
        self,
        place: str,
        family: socket.AddressFamily,
        kind: socket.SocketKind,
        address: str,
        port: int,
        link: str = "",
    ) -> socket.socket:
        sock = self._places[place].netns.socket(family, kind)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if link:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, link.encode())
        sock.bind((address, port))
        return sock


def write_kubeconfig(path: Path, user: str, token: str) -> None:
    """Write a kubeconfig that only root can read. JSON is YAML too."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "lab",
        "clusters": [{"name": "lab", "cluster": {"server": plan.API_URL}}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": user, "namespace": "default"}}],
    }
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
        json.dump(config, file, indent=2)


def _person(name: str) -> User:
    """Eve may do everything, as the laptop's user; Dora is a developer in namespace `dora`, Debbie a debugger."""
    return {"dora": rbac.developer("dora", "dora"), "debbie": rbac.debugger("debbie")}.get(name, admin(name))
