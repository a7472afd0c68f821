"""The steps from the pods as they are to the pods as they should be. Pure; `reconcile` carries the steps out.

What gives ports back comes first: it must not wait for anything that may fail or take time.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tproxy_node.desired import PodRoutes


@dataclass(frozen=True, slots=True, order=True)
class PodRef:
    """A pod by name, for people, and by UID."""

    namespace: str
    name: str
    uid: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Attached:
    """A pod that is steered. `broken` says what is no longer right with the attachment, or is empty."""

    pod: PodRef
    routes: PodRoutes
    broken: str = ""


@dataclass(frozen=True, slots=True)
class Attach:
    """Begin steering a pod."""

    pod: PodRef
    routes: PodRoutes

    def __str__(self) -> str:
        return f"attach {self.pod} {_routes_text(self.routes)}"


@dataclass(frozen=True, slots=True)
class SetRoutes:
    """Steer other ports of a pod, or the same ones elsewhere; connections of ports that stay are untouched."""

    pod: PodRef
    routes: PodRoutes

    def __str__(self) -> str:
        return f"route  {self.pod} {_routes_text(self.routes)}"


@dataclass(frozen=True, slots=True)
class Detach:
    """Stop steering a pod. `gone`: its network is no more, so nothing is left to drain."""

    pod: PodRef
    reason: str
    gone: bool = False

    def __str__(self) -> str:
        return f"detach {self.pod} ({self.reason}{'; at once' if self.gone else ''})"


Op = Attach | SetRoutes | Detach


def plan(
    pods: Iterable[PodRef],
    desired: Mapping[str, PodRoutes],
    attached: Mapping[str, Attached],
    held_back: frozenset[str] = frozenset(),
) -> list[Op]:
    """Order the steps.

    `pods` are the pods that exist on this node, `desired` and `attached` are by pod UID; pods in `held_back` are not
    attached in this round.
    """
    existing = {pod.uid: pod for pod in pods}
    detach: list[Op] = []
    change: list[Op] = []
    attach: list[Op] = []
    for uid, now in sorted(attached.items(), key=lambda item: item[1].pod):
        routes = desired.get(uid, {})
        if uid not in existing:
            detach.append(Detach(now.pod, "the pod is gone", gone=True))
        elif now.broken:
            detach.append(Detach(now.pod, now.broken, gone=True))
        elif not routes:
            detach.append(Detach(now.pod, "no live intercept"))
        elif dict(routes) != dict(now.routes):
            change.append(SetRoutes(now.pod, routes))
    for uid, pod in sorted(existing.items(), key=lambda item: item[1]):
        steered = uid in attached and not attached[uid].broken
        if desired.get(uid) and not steered and uid not in held_back:
            attach.append(Attach(pod, desired[uid]))
    return [*detach, *change, *attach]


def render(ops: Sequence[Op]) -> str:
    """The plan for people, one step per line."""
    return "\n".join(str(op) for op in ops)


def _routes_text(routes: PodRoutes) -> str:
    return " ".join(f"{port}->{route}" for port, route in sorted(routes.items()))
