"""Who may be checking the health of pods from outside: this node's own addresses, as pods see them.

Probes come from the address that the node routes to the pod with, which may be any of its own, or from the pod's
gateway.
NodePort and ingress traffic can carry the same addresses, so an address alone makes no probe.
"""

import asyncio
import ipaddress
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from tproxy.errors import TproxyError
from tproxy.http.probe import KUBELET, Verdict, agents, asks_as_checker, classify
from tproxy.kube.port import NODES, Cluster
from tproxy.netns.addresses import IPAddress
from tproxy.netns.gateways import gateways_of
from tproxy.netns.handle import Netns
from tproxy.netns.node import node_addresses
from tproxy.steer.port import Attachment
from tproxy.steer.sock_diag import ListenerList
from tproxy_node.first_bytes import Checks

log = logging.getLogger(__name__)

REFRESH_SECONDS = 30.0
MAX_ADDRESSES = 256
"""A node with more of its own has those of all Services (kube-proxy in IPVS mode); its Node object has to do."""


class Probing:
    """What probes on this node look like; shared by all pods. `agents` are User-Agent prefixes."""

    def __init__(self, prefixes: Iterable[str] = (KUBELET,)) -> None:
        self.agents = agents(tuple(prefixes))
        self.addresses: frozenset[str] = frozenset()

    def checks(self, from_node: bool, inside: bool, otherwise: Callable[[], bool] = lambda: False) -> Checks:
        """What tells probes among connections from a node's address, or from inside the pod, or from elsewhere.

        Where `otherwise` holds when a client speaks, it goes the way of a probe too.
        """

        def by_bytes(data: bytes) -> Verdict:
            return Verdict.PROBE if otherwise() else classify(data, self.agents, from_node)

        def by_request(fields: Iterable[tuple[bytes, bytes]]) -> bool:
            return otherwise() or asks_as_checker(fields, self.agents)

        return Checks(by_bytes, by_request if from_node or inside else None)

    async def follow(self, cluster: Cluster, node: str, proc: Path) -> None:
        """Keep `addresses` up to date for ever."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                own = await loop.run_in_executor(None, _own_addresses, proc)
            except OSError as error:
                log.warning("cannot list the node's addresses: %s", error, extra={"rate_key": "addresses"})
                own = frozenset()
            try:
                told = reported(await cluster.get(NODES, node))
            except (TproxyError, ValueError) as error:
                log.warning("cannot read the Node: %s", error, extra={"rate_key": "node"})
                told = frozenset()
            self.addresses = texts(own | told)
            await asyncio.sleep(REFRESH_SECONDS)


class PodProbing:
    """Tells who may be probing one pod, and whether its app is there for them. Raises OSError when made."""

    def __init__(self, probing: Probing, netns: Netns, attachment: Attachment) -> None:
        self._probing = probing
        self._attachment = attachment
        self._gateways = texts(gateways_of(netns))
        self._own = frozenset(os.fstat(listener.fileno()).st_ino for listener in attachment.listeners)
        self._listeners = ListenerList(netns)
        self._missing: frozenset[int] = frozenset()

    def from_node(self, host: str) -> bool:
        """Whether a connection from `host` may be a probe."""
        host = host.partition("%")[0]
        return host in self._gateways or host in self._probing.addresses

    def app_missing(self, port: int) -> bool:
        """Whether nobody but us listened on `port` when last looked at."""
        return port in self._missing

    def look(self, ports: frozenset[int]) -> None:
        """See whether the app listens on `ports`, and have the node's checks of the others fail as they should."""
        try:
            self._missing = ports - self._listeners.ports(self._own) if ports else frozenset()
            sources = self._gateways | self._probing.addresses if self._missing else ()
            self._attachment.let_through([(source, port) for port in self._missing for source in sources])
        except OSError as error:
            log.warning("cannot look for the app's listeners: %s", error, extra={"rate_key": "listeners"})

    def close(self) -> None:
        """Look no more. Idempotent."""
        self._listeners.close()


def is_inside(source: str, destination: str) -> bool:
    """Whether a connection comes from the pod itself, as those of a mesh's agent do."""
    return source == destination or ipaddress.ip_address(source.partition("%")[0]).is_loopback


def _own_addresses(proc: Path) -> frozenset[IPAddress]:
    found = node_addresses(proc)
    return found if len(found) <= MAX_ADDRESSES else frozenset()


def reported(node: Mapping[str, Any]) -> frozenset[IPAddress]:
    """The addresses in a Node object, and the first of each of its pod networks, which bridges have."""
    found: set[IPAddress] = set()
    for entry in (node.get("status") or {}).get("addresses") or ():
        if entry.get("type") in ("InternalIP", "ExternalIP"):
            found.add(ipaddress.ip_address(entry["address"]))
    for network in (node.get("spec") or {}).get("podCIDRs") or ():
        found.add(ipaddress.ip_network(network).network_address + 1)
    return frozenset(found)


def texts(addresses: Iterable[IPAddress]) -> frozenset[str]:
    """As sockets give them; without those that mean the pod itself when seen from there."""
    return frozenset(str(address).partition("%")[0] for address in addresses if not address.is_loopback)
