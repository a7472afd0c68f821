"""The node daemons as the lab runs them: one ordinary pod for each node, put back if somebody deletes it."""

import asyncio
from collections.abc import Sequence

from tproxy.errors import ClusterError
from tproxy.kube.errors import AlreadyExistsError
from tproxy.kube.port import PODS, Object
from tproxy.lab.addresses import Node
from tproxy.lab.api import rbac
from tproxy.lab.api.authn import User
from tproxy.lab.api.store import Store
from tproxy.lab.controllers.deployments import is_ready
from tproxy.lab.layout import Layout
from tproxy.version import VERSION

NAMESPACE = "tproxy-system"
ACCOUNT = "tproxy-node"
HTTP_PORT = 4771
DIRECT_PORT = 4772
CAPABILITIES = ("NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE", "DAC_READ_SEARCH", "NET_RAW")
"""What the chart gives the daemons, no more: what they cannot do with these they cannot do in the lab."""
READY_SECONDS = 30.0
"""How long the daemons may take to become ready."""

_LAST_WORDS = 8
_FIELDS = {
    "NODE_NAME": "spec.nodeName",
    "POD_NAMESPACE": "metadata.namespace",
    "POD_NAME": "metadata.name",
    "HOST_IP": "status.hostIP",
}
_LABELS = {"app.kubernetes.io/name": "tproxy", "app.kubernetes.io/component": "node"}
_VERSION = "app.kubernetes.io/version"
_SELECTOR = ",".join(f"{key}={value}" for key, value in _LABELS.items())


def user() -> User:
    """The daemons' identity, with the rights that the chart gives."""
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{NAMESPACE}", "system:authenticated")
    return rbac.node(f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}", groups)


def pod_name(node: Node) -> str:
    """Name of a node's daemon pod."""
    return f"tproxy-node-{node.name}"


def exposed(flags: Sequence[str]) -> Sequence[str]:
    """`flags` of daemons that the laptop may reach without the API server, by a port of their node."""
    host = "--direct-host=$(HOST_IP)"
    return (*flags, f"--direct=[::]:{DIRECT_PORT}", host, f"--direct-port={DIRECT_PORT}")


def pod(layout: Layout, node: Node, flags: Sequence[str] = ()) -> Object:
    """The daemon's pod: what the chart's DaemonSet would make, with a host process instead of an image."""
    ports: list[Object] = [{"name": "http", "containerPort": HTTP_PORT, "protocol": "TCP"}]
    if any(flag.startswith("--direct=") for flag in flags):
        ports.append({"name": "direct", "containerPort": DIRECT_PORT, "hostPort": DIRECT_PORT, "protocol": "TCP"})
    return {
        "metadata": {"name": pod_name(node), "namespace": NAMESPACE, "labels": {**_LABELS, _VERSION: VERSION}},
        "spec": {
            "nodeName": node.name,
            "serviceAccountName": ACCOUNT,
            "terminationGracePeriodSeconds": 5,
            "containers": [
                {
                    "name": "node",
                    "image": "tproxy-node",
                    "command": ["python", "-m", "tproxy_node"],
                    "args": [
                        *("--kubeconfig", str(layout.daemon_kubeconfig), "--proc", "/proc"),
                        *("--socket", str(layout.daemon_socket(node.name)), *flags),
                    ],
                    "env": [
                        {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in _FIELDS.items()
                    ],
                    "securityContext": {"capabilities": {"drop": ["ALL"], "add": list(CAPABILITIES)}},
                    "ports": ports,
                    "readinessProbe": {"httpGet": {"path": "/readyz", "port": "http"}, "periodSeconds": 2},
                    "livenessProbe": {
                        "httpGet": {"path": "/healthz", "port": "http"},
                        "initialDelaySeconds": 10,
                        "periodSeconds": 10,
                        "failureThreshold": 6,
                    },
                }
            ],
        },
    }


async def keep(layout: Layout, nodes: Sequence[Node], store: Store, flags: Sequence[str] = ()) -> None:
    """Create the daemons' pods, and create each again whenever it is gone, for ever."""
    while True:
        version = store.version
        present = {found["metadata"]["name"] for found in store.list(PODS, NAMESPACE)}
        for node in nodes:
            if pod_name(node) not in present:
                try:
                    store.create(PODS, pod(layout, node, flags))
                except AlreadyExistsError:
                    continue
        await store.wait([PODS], version)


async def wait_ready(layout: Layout, nodes: Sequence[Node], store: Store) -> None:
    """Return once every node's daemon is ready. Raises ClusterError after READY_SECONDS, saying why they aren't."""
    try:
        async with asyncio.timeout(READY_SECONDS):
            while True:
                version = store.version
                if sum(is_ready(daemon) for daemon in _daemons(store)) >= len(nodes):
                    return
                await store.wait([PODS], version)
    except TimeoutError:
        troubles = [_trouble(layout, daemon) for daemon in _daemons(store) if not is_ready(daemon)]
        raise ClusterError(
            f"the node daemons are not ready after {READY_SECONDS:g} s:\n" + "\n".join(troubles),
            "`tproxy lab up --without-daemons` brings up everything else",
        ) from None


def _daemons(store: Store) -> list[Object]:
    return store.list(PODS, NAMESPACE, labels=_SELECTOR)


def _trouble(layout: Layout, daemon: Object) -> str:
    """What the API knows, and the daemon's last words: they are gone when the lab is."""
    metadata, status = daemon["metadata"], daemon.get("status", {})
    messages = [one.get("message", "") for one in status.get("conditions") or () if one["type"] == "Ready"]
    log = layout.log_directory(NAMESPACE, metadata["name"], metadata["uid"]) / "node.log"
    words = log.read_text(errors="replace").splitlines()[-_LAST_WORDS:] if log.exists() else []
    return "\n  ".join([f"{metadata['name']}: {''.join(messages) or 'not started'}", *words])
