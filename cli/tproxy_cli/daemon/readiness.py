"""Whether an intercept is live: every running pod of its target steered, as the nodes say, over tunnels that stand.

Pure: pods, the Intercept as last seen and the tunnels come in, a verdict per pod comes out.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tproxy.model.intercept import Intercept, NodeState, NodeStatus
from tproxy.model.pod import Pod


@dataclass(frozen=True, slots=True)
class PodView:
    """One pod of an intercept. `reason` is a word for programs, `message` a sentence for people.

    `connections` are still with the app; `staying` says why.
    """

    name: str
    node: str
    state: NodeState
    reason: str = ""
    message: str = ""
    connections: int = 0
    staying: str = ""

    def __str__(self) -> str:
        return f"pod {self.name} on {self.node}: {self.message or self.reason or self.state.value}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be said of an intercept as a whole."""

    pods: tuple[PodView, ...]

    @property
    def live(self) -> bool:
        """Nothing is missing; so too where no pod runs yet."""
        return all(pod.state is NodeState.READY for pod in self.pods)

    @property
    def ready(self) -> int:
        """How many pods are steered."""
        return sum(pod.state is NodeState.READY for pod in self.pods)

    @property
    def missing(self) -> list[PodView]:
        """The pods that are not steered."""
        return [pod for pod in self.pods if pod.state is not NodeState.READY]

    def first(self, state: NodeState) -> PodView | None:
        """A pod in `state`, if there is one."""
        return next((pod for pod in self.pods if pod.state is state), None)


def judge(pods: Sequence[Pod], intercept: Intercept | None, tunnels: Mapping[str, str]) -> Verdict:
    """Look at the running ones of `pods`. `tunnels` has an entry per node without a standing tunnel: why."""
    nodes = intercept.nodes if intercept is not None else {}
    return Verdict(tuple(_view(pod, nodes.get(pod.node), tunnels.get(pod.node)) for pod in placed(pods)))


def placed(pods: Iterable[Pod]) -> list[Pod]:
    """The pods that have to be steered now: those that run."""
    return sorted((pod for pod in pods if pod.running and pod.node), key=lambda pod: (pod.node, pod.name))


def _view(pod: Pod, node: NodeStatus | None, no_tunnel: str | None) -> PodView:
    said = next((each for each in node.pods if each.uid == pod.uid), None) if node is not None else None
    if said is not None and said.state in (NodeState.CONFLICTED, NodeState.REFUSED):
        return PodView(pod.name, pod.node, said.state, said.reason, said.message)
    if no_tunnel is not None:
        return PodView(pod.name, pod.node, NodeState.PENDING, "NoTunnel", no_tunnel)
    if said is None:
        message = "the node's daemon has not reported on it yet"
        return PodView(pod.name, pod.node, NodeState.PENDING, "NotReported", message)
    return PodView(pod.name, pod.node, said.state, said.reason, said.message, said.connections, said.staying)
