"""What the dial policy has to know of the cluster: the addresses of all nodes and of the API server.

Until all of it is known, and when the daemon lacks the right to read it, nothing is dialled: what is not known cannot
be told from what is forbidden.
"""

import asyncio
import ipaddress
import logging
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tproxy.errors import TproxyError
from tproxy.kube.port import ENDPOINTSLICES, NODES, SERVICES, Cluster, Object
from tproxy.model.dial_policy import IPAddress, Where
from tproxy.netns.node import node_addresses
from tproxy_node.probing import reported

log = logging.getLogger(__name__)

REFRESH_SECONDS = 20.0
RETRY_SECONDS = 2.0
API_SERVICE, API_NAMESPACE = "kubernetes", "default"


class Surroundings:
    """Call `where` for each decision; None while it is not known."""

    def __init__(self, cluster: Cluster, server: str, proc: Path) -> None:
        """`server` is the URL by which the daemon reaches the API server."""
        self._cluster = cluster
        self._server = server
        self._proc = proc
        self.where: Where | None = None

    async def follow(self) -> None:
        """Keep `where` up to date for ever. What was known is kept while the API server is away."""
        while True:
            try:
                self.where = await self._look()
            except (TproxyError, OSError) as error:
                log.warning("cannot learn what must not be dialled: %s", error, extra={"rate_key": "surroundings"})
            await asyncio.sleep(RETRY_SECONDS if self.where is None else REFRESH_SECONDS)

    async def _look(self) -> Where:
        loop = asyncio.get_running_loop()
        nodes, services, slices, own, server = await asyncio.gather(
            self._cluster.list(NODES),
            self._cluster.list(SERVICES, API_NAMESPACE, fields=f"metadata.name={API_SERVICE}"),
            self._cluster.list(ENDPOINTSLICES, API_NAMESPACE, labels=f"kubernetes.io/service-name={API_SERVICE}"),
            loop.run_in_executor(None, _own_addresses, self._proc),
            _resolve(self._server),
        )
        known: set[IPAddress] = set(own)
        for node in nodes:
            known |= _reported(node)
        api = set(server)
        for service in services:
            api |= _numeric((service.get("spec") or {}).get("clusterIPs"))
        for each in slices:
            for endpoint in each.get("endpoints") or ():
                api |= _numeric(endpoint.get("addresses"))
        return Where(frozenset(known), frozenset(api))


def _reported(node: Object) -> frozenset[IPAddress]:
    try:
        return reported(node)
    except (ValueError, TypeError, KeyError, AttributeError):  # somebody else's Node that makes no sense
        log.warning("ignored a Node that makes no sense", extra={"rate_key": "node"})
        return frozenset()


def _numeric(texts: Any) -> set[IPAddress]:
    found: set[IPAddress] = set()
    for text in texts or ():
        try:
            found.add(ipaddress.ip_address(text))
        except ValueError:
            continue  # None of headless Services, names
    return found


def _own_addresses(proc: Path) -> frozenset[IPAddress]:
    """Every address of this node, without those of Services where kube-proxy (IPVS) binds them to a dummy link.

    Raises OSError.
    """
    return node_addresses(proc, without_link="kube-ipvs0")


async def _resolve(server: str) -> set[IPAddress]:
    host = urlsplit(server).hostname or ""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return set()
    return {ipaddress.ip_address(str(address[0]).partition("%")[0]) for *_, address in found}
