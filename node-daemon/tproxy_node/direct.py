"""The direct way to this daemon: a port of its own, by TLS, for laptops that can reach it without the API server.

    certificate made here ──▶ listener ──▶ annotations of our own pod ──▶ laptops, which accept this certificate only

Off unless an administrator exposes it. What gets in there is decided by a Session's token, as on loopback; limits are
counted apart, so that strangers at this door close no other.
"""

import asyncio
import logging

from tproxy.errors import TproxyError
from tproxy.kube.port import PODS, Cluster
from tproxy.model.direct import DirectWay
from tproxy.rpc import certificate
from tproxy.rpc.server import TunnelServer
from tproxy.tasks import Tasks
from tproxy_node.opening import Identity
from tproxy_node.options import Direct

log = logging.getLogger(__name__)

FIRST_DELAY_SECONDS = 1.0
LONGEST_DELAY_SECONDS = 60.0


class DirectDoor:
    """Listens with a fresh certificate, and keeps saying where until that has been heard."""

    def __init__(self, server: TunnelServer[Identity], options: Direct) -> None:
        self._server = server
        self._options = options
        self._tasks = Tasks("direct")

    async def start(self, cluster: Cluster) -> None:
        """Listen; publish in the background. Raises `ClusterError` if the address is taken."""
        options, made = self._options, certificate.make()
        bound = await self._server.start(options.listen.host, options.listen.port, made)
        way = DirectWay(options.host, options.port or bound, made.der)
        self._tasks.start(self._publish(cluster, way), "publish")

    async def close(self) -> None:
        """Publish no more; the server is stopped by whoever made it."""
        await self._tasks.close()

    async def _publish(self, cluster: Cluster, way: DirectWay) -> None:
        pod, delay = self._options.pod, FIRST_DELAY_SECONDS
        while True:
            try:
                # Of a pod's subresources this one takes annotations and lets nobody change what the pod runs.
                body = {"metadata": {"annotations": way.annotations()}}
                await cluster.patch(PODS, pod.name, body, pod.namespace, "status")
            except TproxyError as error:
                log.warning("cannot publish the direct address: %s", error.message, extra={"address": str(way)})
                await asyncio.sleep(delay)
                delay = min(delay * 2, LONGEST_DELAY_SECONDS)
            else:
                log.info("direct address published", extra={"address": str(way)})
                return
