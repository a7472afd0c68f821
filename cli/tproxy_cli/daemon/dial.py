"""How a tunnel to a node is opened: find the node daemon's pod, forward a port to it, say hello.

unix socket in the runtime directory ── WebSocket through the API server ── 127.0.0.1:4770 in the daemon's pod
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tproxy.errors import ClusterError, DeniedError
from tproxy.kube.api import ApiCluster
from tproxy.kube.port import PODS
from tproxy.kube.portforward import PortForward
from tproxy.model.pod import Pod
from tproxy.rpc import client
from tproxy.tunnel.endpoint import Conn, Endpoint
from tproxy.tunnel.hello import Hello

SYSTEM_NAMESPACE = "tproxy-system"
NODE_DAEMON_LABELS = "app.kubernetes.io/name=tproxy,app.kubernetes.io/component=node"
NODE_DAEMON_PORT = 4770
FRESH_SECONDS = 1.0
"""How long a list of the node daemons serves: many nodes reconnect at once, one list is enough for all."""


class NodeDaemons:
    """The pods of the node daemons."""

    def __init__(self) -> None:
        self._pods: Mapping[str, Pod] = {}
        self._listed_at = float("-inf")
        self._lock = asyncio.Lock()

    async def by_node(self, cluster: ApiCluster) -> Mapping[str, Pod]:
        """Node daemons that run, by node. Raises TproxyError."""
        async with self._lock:
            if time.monotonic() - self._listed_at > FRESH_SECONDS:
                listed = await cluster.list(PODS, SYSTEM_NAMESPACE, labels=NODE_DAEMON_LABELS)
                pods = [Pod.from_object(each) for each in listed]
                self._pods = {pod.node: pod for pod in pods if pod.running and pod.node}
                self._listed_at = time.monotonic()
            return self._pods


def no_daemon(node: str) -> ClusterError:
    """There is none on `node`."""
    return ClusterError(
        f"no tproxy node daemon runs on node {node}",
        f"see what keeps it: `kubectl -n {SYSTEM_NAMESPACE} get pods -l {NODE_DAEMON_LABELS} -o wide`",
    )


@dataclass(slots=True)
class NodeLink:
    """An open tunnel and the port-forward that carries it."""

    endpoint: Endpoint
    forward: PortForward

    async def close(self) -> None:
        """Release the port-forward; the endpoint is closed already."""
        await self.forward.close()


async def dial(
    cluster: ApiCluster,
    daemons: NodeDaemons,
    node: str,
    hello: Hello,
    on_open: Callable[[Conn], None],
    directory: Path,
) -> NodeLink:
    """Open the tunnel to `node`; sockets are made in `directory`.

    Raises `DeniedError` if we lack the right to, `IncompatibleError` if the node daemon is too old or too new, and
    `ClusterError` for what may be better at the next attempt.
    """
    pod = (await daemons.by_node(cluster)).get(node)
    if pod is None:
        raise no_daemon(node)
    forward = PortForward(cluster, pod.namespace, pod.name, NODE_DAEMON_PORT, str(directory))
    try:
        path = await forward.start()
        endpoint = await _say_hello(path, hello, on_open)
    except BaseException:
        await forward.close()
        raise
    return NodeLink(endpoint, forward)


async def _say_hello(path: str, hello: Hello, on_open: Callable[[Conn], None]) -> Endpoint:
    try:
        return await client.connect(f"unix:{path}", hello, on_open)
    except DeniedError as error:
        # Not a matter of rights: the node has not heard of the Session yet, or no longer knows it.
        raise ClusterError(error.message, error.hint) from error
