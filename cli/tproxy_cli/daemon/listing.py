"""Intercepts and tunnels in the form that `list` and `status` answer with. Pure."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from tproxy.model.figures import BUCKETS, Outcome, Requests, Timed
from tproxy.model.intercept import Intercept, NodeState, NodeStatus, PodStatus
from tproxy.model.session import Session
from tproxy_cli.daemon.held import Held
from tproxy_cli.daemon.state import SavedIntercept, SavedSession
from tproxy_cli.daemon.tunnels import TunnelView

Json = dict[str, Any]

_SEVERITY = (NodeState.READY, NodeState.PENDING, NodeState.CONFLICTED, NodeState.REFUSED)


def intercept_json(
    intercept: Intercept, session: Session | None, held: Held | None, no_tunnel: Mapping[str, str]
) -> Json:
    """One Intercept. `held` if it is ours; then `no_tunnel` says of which nodes we have no tunnel, and why."""
    nodes = {name: _seen(status, no_tunnel.get(name) if held else None) for name, status in intercept.nodes.items()}
    pods = [pod for status in nodes.values() for pod in status.pods]
    summary = _summary(intercept, nodes, held)
    return {
        "namespace": intercept.namespace,
        "name": intercept.name,
        "target": str(intercept.target),
        "ports": [
            {
                "remote": port.port,
                "local": app.port if held is not None and (app := held.local_app(port)) is not None else None,
                "protocol": port.protocol,
            }
            for port in intercept.ports
        ],
        "match": intercept.match.to_object() if intercept.match is not None else None,
        "user": session.user if session is not None else "",
        "host": session.host if session is not None else "",
        "mine": held is not None,
        "state": summary.state.value,
        "reason": summary.reason,
        "message": summary.message,
        "pods": {"ready": sum(pod.state is NodeState.READY for pod in pods), "total": len(pods)},
        "connectionsWithApp": sum(pod.connections for pod in pods),
        "nodes": [
            {
                "node": name,
                "state": status.state.value,
                "reason": status.reason,
                "message": status.message,
                "pods": [
                    {
                        "name": pod.name,
                        "state": pod.state.value,
                        "reason": pod.reason,
                        "message": pod.message,
                        "connections": pod.connections,
                        "staying": pod.staying,
                    }
                    for pod in status.pods
                ],
            }
            for name, status in sorted(nodes.items())
        ],
        "files": {"directory": held.saved.files, "trouble": held.files_trouble} if held and held.saved.files else None,
        "created": _rfc3339(intercept.created),
    }


def held_json(session: SavedSession, host: str, held: Held, no_tunnel: Mapping[str, str]) -> Json:
    """An intercept of ours as last seen, or as asked for if the cluster has said nothing about it yet."""
    intercept = held.observed or _unseen(session, held.saved)
    return {**intercept_json(intercept, None, held, no_tunnel), "user": session.user, "host": host}


def requests_json(requests: Requests | None) -> Json | None:
    """What became of the requests on an intercept's ports; times in seconds, of those that its laptop answered."""
    if requests is None:
        return None
    matched = requests.timed.get(Outcome.MATCHED, Timed())
    return {
        **{outcome.value: requests.count(outcome) for outcome in Outcome},
        "p50Seconds": matched.quantile(0.5),
        "p99Seconds": matched.quantile(0.99),
        "histogram": {
            outcome.value: {"bounds": list(BUCKETS), "counts": timed.buckets, "seconds": timed.seconds}
            for outcome, timed in requests.timed.items()
        },
    }


def lost_json(session: SavedSession, host: str, held: Held, why: str, at: datetime) -> Json:
    """An intercept of ours that somebody else deleted."""
    shown = held_json(session, host, held, {})
    message = f"{why} at {at:%H:%M}; `tproxy leave {held.name}` forgets it"
    return {
        **shown,
        "state": "Lost",
        "reason": "Deleted",
        "message": message,
        "pods": {"ready": 0, "total": 0},
        "connectionsWithApp": 0,
        "nodes": [],
    }


def tunnel_json(view: TunnelView, transport: str) -> Json:
    """One tunnel; `transport` is how nodes are reached. Sizes in bytes, times in seconds, as the laptop counts them."""
    stats = [endpoint.stats for endpoint in view.endpoints]
    return {
        "node": view.node,
        "state": view.state,
        "transport": transport,
        "address": view.address or None,
        "streams": len(stats),
        "rttSeconds": stats[0].rtt if stats else None,
        "bytesIn": sum(one.bytes_in for one in stats),
        "bytesOut": sum(one.bytes_out for one in stats),
        "connections": sum(one.connections for one in stats),
        "since": _rfc3339(datetime.fromtimestamp(view.since, UTC)),
        "error": view.error,
        "version": (view.endpoints[0].peer_software or None) if stats else None,
    }


def without_tunnel(nodes: Iterable[str], views: Iterable[TunnelView]) -> dict[str, str]:
    """Why each of `nodes` that has no standing tunnel has none."""
    by_node = {view.node: view for view in views}
    missing = {}
    for node in nodes:
        view = by_node.get(node)
        if view is None or view.state != "connected":
            missing[node] = view.error if view is not None and view.error else "the tunnel is being connected"
    return missing


def _seen(status: NodeStatus, no_tunnel: str | None) -> NodeStatus:
    """A node's entry in the light of the tunnel: what it calls Ready ended with the stream."""
    if no_tunnel is None:
        return status
    pods = tuple(
        PodStatus(pod.name, pod.uid, NodeState.PENDING, "NoTunnel", no_tunnel) if pod.state is NodeState.READY else pod
        for pod in status.pods
    )
    if status.state is NodeState.READY:
        return NodeStatus(NodeState.PENDING, "NoTunnel", no_tunnel, pods)
    return NodeStatus(status.state, status.reason, status.message, pods)


def _summary(intercept: Intercept, nodes: Mapping[str, NodeStatus], held: Held | None) -> NodeStatus:
    """As bad as the worst node."""
    if intercept.deleting:
        return NodeStatus(NodeState.PENDING, "Leaving", "it is being left")
    if not nodes:
        return NodeStatus(NodeState.PENDING, "NoPods", "no node has reported a pod of it yet")
    worst = max(nodes.values(), key=lambda status: _SEVERITY.index(status.state))
    note = held.note if held is not None else ""
    return NodeStatus(worst.state, worst.reason, worst.message or note)


def _unseen(session: SavedSession, saved: SavedIntercept) -> Intercept:
    return Intercept(
        namespace=session.namespace,
        name=saved.name,
        uid=saved.uid,
        session=session.name,
        session_uid=session.uid,
        target=saved.target,
        ports=tuple(port.pod for port in saved.ports),
        match=saved.match,
        on_disconnect=saved.on_disconnect,
        on_refused=saved.on_refused,
        probes=saved.probes,
        existing=saved.existing,
        drain_seconds=saved.drain_seconds,
    )


def _rfc3339(time: datetime | None) -> str | None:
    return time.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z") if time is not None else None
