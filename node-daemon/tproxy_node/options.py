"""The daemon's command line."""

import argparse
import ipaddress
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tproxy.errors import TproxyError
from tproxy.http.probe import KUBELET
from tproxy.model.dial_policy import DialPolicy, Network
from tproxy.model.direct import parse_host
from tproxy.steer.choose import AUTO, CHOICES
from tproxy.version import VERSION
from tproxy_node.debug.door import DEFAULT
from tproxy_node.dial.dialling import DialLimits
from tproxy_node.reading import READERS, Readers
from tproxy_node.relay import Limits


@dataclass(frozen=True, slots=True)
class Listen:
    """A numeric address and port to listen on."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class PodName:
    """The daemon's own pod."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Direct:
    """Where laptops arrive by TLS: the address to listen on, and `host` and `port` by which they reach it (port 0: the
    one listened on). `pod` is where that is published."""

    listen: Listen
    host: str
    port: int
    pod: PodName


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for."""

    node: str
    kubeconfig: str | None
    proc: Path
    grpc: Listen
    http: Listen
    direct: Direct | None
    steering: str
    probe_agents: tuple[str, ...]
    dial: DialPolicy
    environment: Readers
    files: Readers
    limits: Limits
    dial_limits: DialLimits
    socket: Path
    log_level: str
    log_format: str


_LIMITS = (
    ("session-connections", Limits().per_session, "intercepted connections of one session at a time"),
    ("node-connections", Limits().total, "of all sessions together, and never more than half of the descriptors"),
    ("session-dials", DialLimits().per_session, "dialled connections and UDP flows of one session at a time"),
    ("node-dials", DialLimits().total, "of all sessions together"),
)
MOST = 1_000_000


def _limit(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to {MOST}")
    return int(text)


def _listen(text: str) -> Listen:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or not 0 <= int(port) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not ADDRESS:PORT")
    return Listen(host.strip("[]"), int(port))


def _host(text: str) -> str:
    try:
        return parse_host(text)
    except TproxyError as error:
        raise argparse.ArgumentTypeError(error.message) from error


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port from 1 to 65535")
    return int(text)


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no network: {error}") from error


def parse(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> Options:
    """Read the command line; leaves with status 2 and a usage line if it makes no sense."""
    parser = argparse.ArgumentParser(
        prog="python -m tproxy_node", description="Steers the intercepted pods of one Kubernetes node."
    )
    parser.add_argument("--version", action="version", version=VERSION)
    parser.add_argument(
        "--node",
        default=environ.get("NODE_NAME", ""),
        help="name of the Node object (default: $NODE_NAME)",
    )
    parser.add_argument("--kubeconfig", help="kubeconfig file (default: the pod's service account)")
    parser.add_argument(
        "--proc", type=Path, default=Path("/proc"), help="where the host's /proc is mounted (default: %(default)s)"
    )
    parser.add_argument(
        "--grpc",
        type=_listen,
        default="127.0.0.1:4770",
        metavar="ADDRESS:PORT",
        help="where laptops arrive by port-forward; keep it on loopback (default: %(default)s)",
    )
    parser.add_argument(
        "--http",
        type=_listen,
        default="[::]:4771",
        metavar="ADDRESS:PORT",
        help="health and metrics (default: %(default)s)",
    )
    parser.add_argument(
        "--direct",
        type=_listen,
        metavar="ADDRESS:PORT",
        help="where laptops arrive without a port-forward, by TLS (default: nowhere)",
    )
    parser.add_argument(
        "--direct-host",
        type=_host,
        metavar="HOST",
        help="the name or address by which laptops reach that; it is published in annotations of $POD_NAMESPACE's"
        " pod $POD_NAME",
    )
    parser.add_argument(
        "--direct-port",
        type=_port,
        default=0,
        metavar="PORT",
        help="the port by which they do (default: the one listened on)",
    )
    parser.add_argument(
        "--steering",
        choices=CHOICES,
        default=AUTO,
        help="how the kernel is told; auto is sk_lookup, or tproxy where the kernel lacks that (default: %(default)s)",
    )
    parser.add_argument(
        "--probe-agent",
        action="append",
        metavar="PREFIX",
        help=f"what a health checker's User-Agent begins with; repeatable (default: {KUBELET})",
    )
    parser.add_argument(
        "--dial-allow",
        action="append",
        type=_network,
        default=[],
        metavar="CIDR",
        help="let laptops dial this network although a rule denies it (link-local, metadata, loopback, nodes, the API"
        " server); repeatable",
    )
    parser.add_argument(
        "--dial-allow-nodes",
        action="store_true",
        help="let laptops dial the addresses of nodes, but for the API server",
    )
    parser.add_argument(
        "--environment",
        choices=READERS,
        default="node",
        help="who reads containers' environment for laptops: the node, each user with their own rights,"
        " or nobody (default: %(default)s)",
    )
    parser.add_argument(
        "--files",
        choices=READERS,
        default="node",
        help="who reads containers' ConfigMaps, Secrets and tokens for laptops; as above (default: %(default)s)",
    )
    for name, default, what in _LIMITS:
        parser.add_argument(
            f"--{name}", type=_limit, default=default, metavar="N", help=f"{what} (default: %(default)s)"
        )
    parser.add_argument(
        "--socket",
        type=Path,
        default=DEFAULT,
        metavar="PATH",
        help="where `python -m tproxy_node debug` asks this daemon, for root alone (default: %(default)s)",
    )
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    parser.add_argument(
        "--log-format", choices=("json", "text"), default="", help="default: text on a terminal, else json"
    )
    found = parser.parse_args(arguments)
    if "" in (found.probe_agent or ()):
        parser.error("--probe-agent: every User-Agent begins with nothing")
    if not found.node:
        parser.error("which node is this? give --node or $NODE_NAME")
    pod = PodName(environ.get("POD_NAMESPACE", ""), environ.get("POD_NAME", ""))
    if found.direct and not (found.direct_host and pod.namespace and pod.name):
        parser.error("--direct takes --direct-host, and $POD_NAMESPACE and $POD_NAME, to say where it is")
    return Options(
        node=found.node,
        kubeconfig=found.kubeconfig,
        proc=found.proc,
        grpc=found.grpc,
        http=found.http,
        direct=Direct(found.direct, found.direct_host, found.direct_port, pod) if found.direct else None,
        steering=found.steering,
        probe_agents=tuple(found.probe_agent or (KUBELET,)),
        dial=DialPolicy(tuple(found.dial_allow), found.dial_allow_nodes),
        environment=found.environment,
        files=found.files,
        limits=Limits(found.session_connections, found.node_connections),
        dial_limits=DialLimits(found.session_dials, found.node_dials),
        socket=found.socket,
        log_level=found.log_level,
        log_format=found.log_format,
    )
