"""How a tunnel to a node is opened: find the node daemon's pod, get through to it, say hello.

port-forward   unix socket in the runtime directory ── WebSocket through the API server ── 127.0.0.1:4770 in the pod
direct         TLS to the address that the pod's annotations name, with the certificate in them
"""

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tproxy.errors import ClusterError, DeniedError, InvalidError, TproxyError
from tproxy.kube.api import ApiCluster
from tproxy.kube.port import PODS, Object
from tproxy.kube.portforward import PortForward
from tproxy.model.direct import DirectWay
from tproxy.model.pod import Pod
from tproxy.rpc import client
from tproxy.rpc.reach import OTHER_WAY, UnreachableError, reach, trusting
from tproxy.tunnel.endpoint import Conn, Endpoint
from tproxy.tunnel.hello import Hello

SYSTEM_NAMESPACE = "tproxy-system"
NODE_DAEMON_LABELS = "app.kubernetes.io/name=tproxy,app.kubernetes.io/component=node"
NODE_DAEMON_PORT = 4770
LIBRARY_VARIABLE = "TPROXY_GRPC"
FRESH_SECONDS = 1.0
"""How long a list of the node daemons serves: many nodes reconnect at once, one list is enough for all."""


@dataclass(frozen=True, slots=True)
class NodeDaemon:
    """A node daemon that runs, and the direct way to it as its pod's annotations say."""

    pod: Pod
    annotations: Mapping[str, str]

    @property
    def direct(self) -> DirectWay | None:
        """None if it is not exposed. Raises `InvalidError`."""
        return DirectWay.from_annotations(self.annotations)

    @classmethod
    def from_object(cls, obj: Object) -> "NodeDaemon":
        """Parse a pod."""
        annotations = obj.get("metadata", {}).get("annotations") or {}
        kept = {str(key): str(value) for key, value in annotations.items() if str(key).startswith("tproxy.dev/")}
        return cls(Pod.from_object(obj), kept)


class NodeDaemons:
    """The node daemons there are."""

    def __init__(self) -> None:
        self._found: Mapping[str, NodeDaemon] = {}
        self._listed_at = float("-inf")
        self._lock = asyncio.Lock()

    async def by_node(self, cluster: ApiCluster) -> Mapping[str, NodeDaemon]:
        """Those that run, by node. Raises TproxyError."""
        async with self._lock:
            if time.monotonic() - self._listed_at > FRESH_SECONDS:
                listed = await cluster.list(PODS, SYSTEM_NAMESPACE, labels=NODE_DAEMON_LABELS)
                found = [NodeDaemon.from_object(each) for each in listed]
                self._found = {one.pod.node: one for one in found if one.pod.running and one.pod.node}
                self._listed_at = time.monotonic()
            return self._found

    async def direct(self, cluster: ApiCluster, node: str) -> NodeDaemon:
        """The daemon of `node`; while the API server cannot be asked, as it was. Raises TproxyError."""
        try:
            found = (await self.by_node(cluster)).get(node)
        except TproxyError:
            if (found := self._found.get(node)) is None:
                raise
        if found is None:
            raise no_daemon(node)
        return found


def no_daemon(node: str) -> ClusterError:
    """There is none on `node`."""
    return ClusterError(
        f"no tproxy node daemon runs on node {node}",
        f"see what keeps it: `kubectl -n {SYSTEM_NAMESPACE} get pods -l {NODE_DAEMON_LABELS} -o wide`",
    )


@dataclass(slots=True)
class NodeLink:
    """An open tunnel; `address` is where it leads to directly, `forward` the port-forward that carries it instead."""

    endpoint: Endpoint
    address: str = ""
    forward: PortForward | None = None

    async def close(self) -> None:
        """Release the port-forward; the endpoint is closed already."""
        if self.forward is not None:
            await self.forward.close()


async def dial(
    cluster: ApiCluster,
    daemons: NodeDaemons,
    node: str,
    hello: Hello,
    on_open: Callable[[Conn], None],
    directory: Path,
) -> NodeLink:
    """Open the tunnel to `node` by a port-forward; sockets are made in `directory`.

    Raises `DeniedError` if we lack the right to, `IncompatibleError` if the node daemon is too old or too new, and
    `ClusterError` for what may be better at the next attempt.
    """
    found = (await daemons.by_node(cluster)).get(node)
    if found is None:
        raise no_daemon(node)
    forward = PortForward(cluster, found.pod.namespace, found.pod.name, NODE_DAEMON_PORT, str(directory))
    try:
        path = await forward.start()
        endpoint = await _say_hello(f"unix:{path}", hello, on_open)
    except BaseException:
        await forward.close()
        raise
    return NodeLink(endpoint, forward=forward)


async def dial_directly(
    cluster: ApiCluster, daemons: NodeDaemons, node: str, hello: Hello, on_open: Callable[[Conn], None]
) -> NodeLink:
    """Open the tunnel to `node` without the API server.

    Raises `UnreachableError` if that is not possible from here, and otherwise as `dial` does.
    """
    found = await daemons.direct(cluster, node)
    way = found.direct
    if way is None:
        raise _not_exposed(found.pod)
    trusting(way.certificate)
    try:
        return NodeLink(await _say_hello(str(way), hello, on_open, way.certificate), str(way))
    except (DeniedError, InvalidError, client.IncompatibleError):
        raise
    except ClusterError as error:
        if isinstance(error.__cause__, DeniedError):
            raise
        await reach(way, node)  # which says why not, if that is the reason
        raise


def _not_exposed(pod: Pod) -> ClusterError:
    said = f"the node daemon on {pod.node} has no address for direct connections"
    if not pod.ready:  # it has not said so yet
        return ClusterError(said, OTHER_WAY)
    return UnreachableError(said, f"{OTHER_WAY}; administrators expose one with the chart's value `direct.enabled`")


def _opening() -> client.Opening:
    """What carries the tunnel: our own gRPC, or the library where its user wants that."""
    chosen = os.environ.get(LIBRARY_VARIABLE, "")
    if not chosen:
        return client.open_stream
    if chosen != "grpcio":
        raise InvalidError(f"{LIBRARY_VARIABLE} is {chosen[:64]!r}", "`grpcio`, or unset for tproxy's own gRPC")
    try:
        from tproxy.rpc import library
    except ImportError as error:
        raise InvalidError(f"{LIBRARY_VARIABLE} is set, but grpcio is not installed", "`pip install grpcio`") from error
    return library.open_stream


async def _say_hello(
    target: str, hello: Hello, on_open: Callable[[Conn], None], certificate: bytes | None = None
) -> Endpoint:
    try:
        return await client.connect(target, hello, on_open, certificate, _opening())
    except DeniedError as error:
        # Not a matter of rights: the node has not heard of the Session yet, or no longer knows it.
        raise ClusterError(error.message, error.hint) from error
