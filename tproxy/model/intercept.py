"""What a laptop wants of a workload's traffic, and what each node has made of it."""

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from tproxy.model.fields import Fields
from tproxy.model.match import Match
from tproxy.model.session import API_VERSION

MAX_PORTS = 32
MAX_NODES = 10_000
MAX_PODS_PER_NODE = 1_000
MAX_CONNECTIONS = 2**31 - 1
DRAIN_SECONDS = 30
MAX_DRAIN_SECONDS = 3600
MESSAGE_LIMIT = 1024
REASON_LIMIT = 64
LEAVING = "tproxy.dev/leaving"
"""Annotation by which the laptop asks the nodes to let go before it deletes the object."""

OnDisconnect = Literal["fallback", "fail"]
OnRefused = Literal["fail", "fallback"]
"""What becomes of a request of a personal intercept while nothing listens on the laptop's port."""

Probes = Literal["app", "laptop"]
"""Who answers health checks of an intercepted port."""
Existing = Literal["idle", "keep", "reset"]
"""What becomes of connections that the app has already: HTTP ones come over when they are between two requests, or all
stay until their clients close them, or all are reset."""

_KIND = re.compile(r"[A-Z][A-Za-z0-9]{0,62}")


class NodeState(enum.Enum):
    """How far a node is with an intercept, or with one pod of it."""

    READY = "Ready"
    PENDING = "Pending"
    CONFLICTED = "Conflicted"
    REFUSED = "Refused"


@dataclass(frozen=True, slots=True)
class Target:
    """The workload, Service or pod whose traffic is meant: kind as the API names it (`Deployment`)."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


@dataclass(frozen=True, slots=True, order=True)
class InterceptPort:
    """A port of the pod. As text `80`, or `53/udp`."""

    port: int
    protocol: str = "TCP"

    def __str__(self) -> str:
        return str(self.port) if self.protocol == "TCP" else f"{self.port}/{self.protocol.lower()}"


@dataclass(frozen=True, slots=True)
class PodStatus:
    """One pod of an intercept, as its node sees it. `reason` is one CamelCase word, `message` a sentence.

    `connections` to the intercepted ports are still with the app, from before the intercept; `staying` says why.
    """

    name: str
    uid: str
    state: NodeState
    reason: str = ""
    message: str = ""
    connections: int = 0
    staying: str = ""


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One node's part in an intercept."""

    state: NodeState
    reason: str = ""
    message: str = ""
    pods: tuple[PodStatus, ...] = ()


@dataclass(frozen=True, slots=True)
class Intercept:
    """An Intercept object. `session` is the name of its Session; `match` None means every connection (global).

    `existing` is about connections from before; `drain_seconds` is what those with the laptop get to finish when it is
    left.

    `deleting`: it is about to go. Nodes stop steering and then take back their entries of `nodes`, which is how the
    laptop learns that the pods serve again.
    """

    namespace: str
    name: str
    uid: str
    session: str
    session_uid: str
    target: Target
    ports: tuple[InterceptPort, ...]
    match: Match | None = None
    on_disconnect: OnDisconnect = "fallback"
    on_refused: OnRefused = "fail"
    probes: Probes = "app"
    existing: Existing = "idle"
    drain_seconds: int = DRAIN_SECONDS
    created: datetime | None = None
    nodes: Mapping[str, NodeStatus] = field(default_factory=dict)
    deleting: bool = False

    @classmethod
    def from_object(cls, obj: object) -> "Intercept":
        """Parse what the API server sent; `InvalidError` on anything that is no Intercept."""
        fields = Fields.of_object(obj, "Intercept")
        metadata, spec = fields.part("metadata"), fields.part("spec")
        session = spec.name("session")
        ports = tuple(_port(item) for item in spec.parts("ports", MAX_PORTS))
        if not ports:
            raise spec.invalid("ports", "at least one port")
        on_disconnect = spec.text("onDisconnect", "fallback")
        if on_disconnect not in ("fallback", "fail"):
            raise spec.invalid("onDisconnect", "fallback or fail")
        on_refused = spec.text("onRefused", "fail")
        if on_refused not in ("fail", "fallback"):
            raise spec.invalid("onRefused", "fail or fallback")
        probes = spec.text("probes", "app")
        if probes not in ("app", "laptop"):
            raise spec.invalid("probes", "app or laptop")
        existing = spec.text("existing", "idle")
        if existing not in ("idle", "keep", "reset"):
            raise spec.invalid("existing", "idle, keep or reset")
        target = spec.part("target")
        return cls(
            namespace=metadata.name("namespace"),
            name=metadata.name("name"),
            uid=metadata.text("uid", ""),
            session=session,
            session_uid=_session_uid(metadata, session),
            target=Target(target.text("kind", limit=63, pattern=_KIND, must="a kind"), target.name("name")),
            ports=ports,
            match=Match.from_fields(spec.part("match")) if "match" in spec else None,
            on_disconnect="fail" if on_disconnect == "fail" else "fallback",
            on_refused="fallback" if on_refused == "fallback" else "fail",
            probes="laptop" if probes == "laptop" else "app",
            existing="keep" if existing == "keep" else "reset" if existing == "reset" else "idle",
            drain_seconds=spec.number("drainSeconds", 0, MAX_DRAIN_SECONDS, DRAIN_SECONDS),
            created=metadata.time("creationTimestamp"),
            nodes={
                node: _node_status(status)
                for node, status in fields.optional("status").named_parts("nodes", MAX_NODES).items()
            },
            deleting="deletionTimestamp" in metadata or LEAVING in metadata.optional("annotations"),
        )

    def to_object(self) -> dict[str, Any]:
        """The object to create: owned by its Session, so that deleting the Session deletes it."""
        spec: dict[str, Any] = {
            "session": self.session,
            "target": {"kind": self.target.kind, "name": self.target.name},
            "ports": [{"port": port.port, "protocol": port.protocol} for port in self.ports],
            "onDisconnect": self.on_disconnect,
            "onRefused": self.on_refused,
            "probes": self.probes,
            "existing": self.existing,
            "drainSeconds": self.drain_seconds,
        }
        if self.match is not None:
            spec["match"] = self.match.to_object()
        return {
            "apiVersion": API_VERSION,
            "kind": "Intercept",
            "metadata": {
                "namespace": self.namespace,
                "name": self.name,
                "ownerReferences": [
                    {"apiVersion": API_VERSION, "kind": "Session", "name": self.session, "uid": self.session_uid}
                ],
            },
            "spec": spec,
        }

    @staticmethod
    def leave_patch() -> dict[str, Any]:
        """The merge patch that marks the Intercept as `deleting`."""
        return {"metadata": {"annotations": {LEAVING: "true"}}}

    @staticmethod
    def status_patch(node: str, status: NodeStatus | None) -> dict[str, Any]:
        """The merge patch of the `status` subresource by which `node` says, or (None) takes back, its part.

        Only the node's own entry is touched: nodes never overwrite each other.
        """
        return {"status": {"nodes": {node: None if status is None else _status_object(status)}}}


def _port(fields: Fields) -> InterceptPort:
    protocol = fields.text("protocol", "TCP")
    if protocol not in ("TCP", "UDP"):
        raise fields.invalid("protocol", "TCP or UDP")
    return InterceptPort(fields.number("port", 1, 65535), protocol)


def _session_uid(metadata: Fields, session: str) -> str:
    for owner in metadata.parts("ownerReferences", 64):
        if (owner.text("apiVersion"), owner.text("kind"), owner.text("name")) == (API_VERSION, "Session", session):
            return owner.text("uid")
    raise metadata.invalid("ownerReferences", f"a list with an entry for the Session {session}")


def _node_status(fields: Fields) -> NodeStatus:
    return NodeStatus(
        state=_state(fields),
        reason=fields.text("reason", ""),
        message=fields.text("message", "", limit=MESSAGE_LIMIT),
        pods=tuple(
            PodStatus(
                name=pod.text("name"),
                uid=pod.text("uid"),
                state=_state(pod),
                reason=pod.text("reason", ""),
                message=pod.text("message", "", limit=MESSAGE_LIMIT),
                connections=pod.number("connections", 0, MAX_CONNECTIONS, 0),
                staying=pod.text("staying", "", limit=MESSAGE_LIMIT),
            )
            for pod in fields.parts("pods", MAX_PODS_PER_NODE)
        ),
    )


def _state(fields: Fields) -> NodeState:
    text = fields.text("state")
    # A state that a newer node daemon knows and we don't is certainly not one to call live.
    return next((state for state in NodeState if state.value == text), NodeState.PENDING)


def _status_object(status: NodeStatus) -> dict[str, Any]:
    return {
        "state": status.state.value,
        "reason": status.reason[:REASON_LIMIT],
        "message": status.message[:MESSAGE_LIMIT],
        "pods": [
            {
                "name": pod.name,
                "uid": pod.uid,
                "state": pod.state.value,
                "reason": pod.reason[:REASON_LIMIT],
                "message": pod.message[:MESSAGE_LIMIT],
                "connections": pod.connections,
                "staying": pod.staying[:MESSAGE_LIMIT],
            }
            for pod in status.pods[:MAX_PODS_PER_NODE]
        ],
    }
