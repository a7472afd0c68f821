"""Services: what kube-proxy does, as one nftables table inside each node's network namespace.

    nat prerouting, output   ClusterIP:port, node:nodePort ──numgen random──► one of the ready endpoints
                             node:hostPort ──► the pod; node:nodePort, policy Local ──► endpoints on that node
    nat postrouting          a pod that reaches itself through its Service gets the node's address as its source, and so
                             does who comes by a node port, unless its policy is Local
    filter forward, output   ClusterIP:port without a ready endpoint is rejected

`ruleset` is pure. A change replaces the whole table in one transaction; connections that are already translated stay
where they are, conntrack remembers them.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from tproxy.errors import TproxyError
from tproxy.kube.port import ENDPOINTSLICES, PODS, SERVICES, Object, Resource, Synced
from tproxy.lab.addresses import Node
from tproxy.lab.api.store import Store
from tproxy.lab.layout import NETNS, Layout
from tproxy.lab.process import run
from tproxy.lab.records import Records
from tproxy.tasks import Tasks

log = logging.getLogger(__name__)

TABLE = "tproxy-lab"
_DIRECT_MARK = "0x7470"  # of connections whose client keeps its address
_QUIET_SECONDS = 0.005


@dataclass(frozen=True, slots=True)
class Forward:
    """One address and port of a Service, with the endpoints behind it. `node_port` is 0 if there is none; `local` if
    that leads only to endpoints of its own node, which then see the client's address."""

    service: str
    address: str
    protocol: str
    port: int
    node_port: int
    endpoints: tuple[tuple[str, int], ...]
    local: bool = False

    @property
    def family(self) -> int:
        """4 or 6."""
        return ip_address(self.address).version


@dataclass(frozen=True, slots=True)
class Direct:
    """A port of a node's own addresses that leads to pods of that node, which see the client's address."""

    family: int
    protocol: str
    port: int
    endpoints: tuple[tuple[str, int], ...]


def directs(node: Node, wanted: Iterable[Forward], pods: Iterable[Object]) -> list[Direct]:
    """The node ports with policy Local and the host ports of one node."""
    networks = [ip_network(network) for network in node.pod_networks]
    found = []
    for forward in wanted:
        if forward.node_port and forward.local:
            here = tuple(one for one in forward.endpoints if any(ip_address(one[0]) in net for net in networks))
            if here:
                found.append(Direct(forward.family, forward.protocol, forward.node_port, here))
    for pod in pods:
        addresses = [one["ip"] for one in pod.get("status", {}).get("podIPs") or ()]
        if pod["spec"].get("nodeName") != node.name or pod["spec"].get("hostNetwork"):
            continue
        for container in pod["spec"]["containers"]:
            for port in container.get("ports") or ():
                if "hostPort" in port:
                    protocol = port.get("protocol", "TCP").lower()
                    for address in addresses:
                        target = ((address, port["containerPort"]),)
                        found.append(Direct(ip_address(address).version, protocol, port["hostPort"], target))
    return found


def forwards(services: Iterable[Object], slices: Iterable[Object]) -> list[Forward]:
    """Join Services with the ready endpoints of their EndpointSlices, family by family."""
    by_service: dict[tuple[str, str], list[Object]] = {}
    for piece in slices:
        metadata = piece["metadata"]
        name = (metadata.get("labels") or {}).get("kubernetes.io/service-name", "")
        by_service.setdefault((metadata["namespace"], name), []).append(piece)
    found = []
    for service in services:
        metadata, spec = service["metadata"], service.get("spec") or {}
        pieces = by_service.get((metadata["namespace"], metadata["name"]), [])
        for address in cluster_ips(service):
            for port in spec.get("ports") or ():
                found.append(
                    Forward(
                        f"{metadata['namespace']}/{metadata['name']}",
                        address,
                        port.get("protocol", "TCP").lower(),
                        port["port"],
                        port.get("nodePort", 0),
                        tuple(sorted(set(_endpoints(pieces, port.get("name", ""), ip_address(address).version)))),
                        spec.get("externalTrafficPolicy") == "Local",
                    )
                )
    return found


def cluster_ips(service: Object) -> list[str]:
    """The Service's cluster addresses; none if it is headless or has none yet."""
    spec = service.get("spec") or {}
    addresses = spec.get("clusterIPs") or [spec.get("clusterIP")]
    return [address for address in addresses if address and address != "None"]


def _endpoints(pieces: Iterable[Object], port_name: str, family: int) -> Iterable[tuple[str, int]]:
    for piece in pieces:
        if piece.get("addressType") != f"IPv{family}":
            continue
        numbers = [port["port"] for port in piece.get("ports") or () if (port.get("name") or "") == port_name]
        for endpoint in piece.get("endpoints") or ():
            if (endpoint.get("conditions") or {}).get("ready", True):
                for address in endpoint["addresses"]:
                    yield from ((address, number) for number in numbers)


def ruleset(wanted: Sequence[Forward], node_addresses: tuple[str, str], direct: Sequence[Direct] = ()) -> str:
    """The nft script that makes a node forward exactly `wanted` and `direct`."""
    chains: list[str] = []
    tables = {4: _Elements(), 6: _Elements()}
    for number, forward in enumerate(wanted):
        elements = tables[forward.family]
        key = f"{forward.address} . {forward.protocol} . {forward.port}"
        if not forward.endpoints:
            elements.idle.append(key)
            continue
        chain = f"service{number}"
        chains += _chain(chain, forward.family, forward.protocol, forward.endpoints)
        elements.services.append(f"{key} : goto {chain}")
        elements.own += [f"{address} . {address}" for address, _ in forward.endpoints]
        if forward.node_port and not forward.local:
            elements.node_ports.append(f"{forward.protocol} . {forward.node_port} : goto {chain}")
    for number, one in enumerate(direct):
        elements, chain = tables[one.family], f"direct{number}"
        chains += _chain(chain, one.family, one.protocol, one.endpoints, f"ct mark set {_DIRECT_MARK} ")
        elements.node_ports.append(f"{one.protocol} . {one.port} : goto {chain}")
        elements.own += [f"{address} . {address}" for address, _ in one.endpoints]
    lines = [f"table inet {TABLE} {{ }}", f"delete table inet {TABLE}", f"table inet {TABLE} {{"]
    for family, elements in tables.items():
        kind = f"ipv{family}_addr"
        lines += _named("map", f"services{family}", f"{kind} . inet_proto . inet_service : verdict", elements.services)
        lines += _named("map", f"nodeports{family}", "inet_proto . inet_service : verdict", elements.node_ports)
        lines += _named("set", f"idle{family}", f"{kind} . inet_proto . inet_service", elements.idle)
        lines += _named("set", f"own{family}", f"{kind} . {kind}", sorted(set(elements.own)))
    lines += [*chains, *_fixed_chains(node_addresses), "}"]
    return "\n".join(lines) + "\n"


class _Elements:
    """Elements of one family's maps and sets."""

    def __init__(self) -> None:
        self.services: list[str] = []
        self.node_ports: list[str] = []
        self.idle: list[str] = []
        self.own: list[str] = []


def _named(what: str, name: str, kind: str, elements: Sequence[str]) -> list[str]:
    body = [f"elements = {{ {', '.join(elements)} }}"] if elements else []
    return [f"{what} {name} {{", f"type {kind}", *body, "}"]


def _chain(name: str, family: int, protocol: str, endpoints: Sequence[tuple[str, int]], first: str = "") -> list[str]:
    choice = ", ".join(f"{index} : {address} . {port}" for index, (address, port) in enumerate(endpoints))
    return [
        f"chain {name} {{",
        f"meta l4proto {protocol} {first}dnat {'ip' if family == 4 else 'ip6'} to "
        f"numgen random mod {len(endpoints)} map {{ {choice} }}",
        "}",
    ]


def _fixed_chains(node_addresses: tuple[str, str]) -> list[str]:
    lookup = "meta l4proto . th dport"
    dispatch = [
        f"ip daddr . {lookup} vmap @services4",
        f"ip6 daddr . {lookup} vmap @services6",
        f"ip daddr {node_addresses[0]} {lookup} vmap @nodeports4",
        f"ip6 daddr {node_addresses[1]} {lookup} vmap @nodeports6",
    ]
    # An ICMP error that arrives while the client is still inside connect() would cost it a second.
    refuse = [
        f"{address} . {lookup} @{idle} {how}"
        for address, idle in (("ip daddr", "idle4"), ("ip6 daddr", "idle6"))
        for how in ("meta l4proto tcp reject with tcp reset", "reject")
    ]
    # A node port's answers must come back through the node that translated the address.
    masquerade = [
        "ip saddr . ip daddr @own4 masquerade",
        "ip6 saddr . ip6 daddr @own6 masquerade",
        f"ct status dnat ct mark {_DIRECT_MARK} accept",
        f"ct status dnat ct original ip daddr {node_addresses[0]} masquerade",
        f"ct status dnat ct original ip6 daddr {node_addresses[1]} masquerade",
    ]
    hooks = [
        ("prerouting", "nat hook prerouting priority -100", dispatch),
        ("output", "nat hook output priority -100", dispatch),
        ("postrouting", "nat hook postrouting priority 100", masquerade),
        ("forward", "filter hook forward priority 0", refuse),
        ("refuse", "filter hook output priority 0", refuse),
    ]
    return [line for name, hook, rules in hooks for line in (f"chain {name} {{", f"type {hook}", *rules, "}")]


class ServiceProxy:
    """Keeps every node's table as the Services and EndpointSlices in the store want it."""

    def __init__(self, layout: Layout, nodes: Sequence[Node], store: Store, records: Records) -> None:
        self._layout = layout
        self._nodes = nodes
        self._store = store
        self._records = records
        self._changed = asyncio.Event()
        self._installed: dict[str, str] = {}
        self._tasks = Tasks("lab-services")

    async def start(self) -> None:
        """Install the rules, then follow changes until `close`. Raises TproxyError if nft refuses."""
        await self._apply()
        self._tasks.start(self._follow(SERVICES), "watch services")
        self._tasks.start(self._follow(ENDPOINTSLICES), "watch endpoints")
        self._tasks.start(self._follow(PODS), "watch host ports")
        self._tasks.start(self._reconcile(), "apply")

    async def close(self) -> None:
        """Stop following changes."""
        await self._tasks.close()

    async def _follow(self, resource: Resource) -> None:
        async for event in self._store.watch(resource):
            if not isinstance(event, Synced):
                self._changed.set()

    async def _reconcile(self) -> None:
        while True:
            await self._changed.wait()
            # A Deployment's pods come in a burst: one transaction for all of them.
            await asyncio.sleep(_QUIET_SECONDS)
            self._changed.clear()
            try:
                await self._apply()
            except TproxyError as error:
                log.error("services not applied: %s", error.message)

    async def _apply(self) -> None:
        services = self._store.list(SERVICES)
        wanted = forwards(services, self._store.list(ENDPOINTSLICES))
        pods = self._store.list(PODS)
        await asyncio.gather(*(self._install(node, wanted, directs(node, wanted, pods)) for node in self._nodes))
        self._records.set_services([_record(service, wanted) for service in services])

    async def _install(self, node: Node, wanted: Sequence[Forward], direct: Sequence[Direct]) -> None:
        script = ruleset(wanted, node.addresses, direct)
        if self._installed.get(node.name) != script:
            netns = NETNS / self._layout.netns(node.name)
            await run("nsenter", f"--net={netns}", "nft", "-f", "-", text=script)
            self._installed[node.name] = script


def _record(service: Object, wanted: Iterable[Forward]) -> Mapping[str, object]:
    metadata, spec = service["metadata"], service.get("spec") or {}
    title = f"{metadata['namespace']}/{metadata['name']}"
    return {
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "clusterIPs": cluster_ips(service),
        "ports": [
            {"name": port.get("name", ""), "port": port["port"], "protocol": port.get("protocol", "TCP")}
            for port in spec.get("ports") or ()
        ],
        "endpoints": sorted({host for forward in wanted if forward.service == title for host, _ in forward.endpoints}),
    }
