"""Which of a workload's containers is meant. Pure."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tproxy.errors import ClusterError, InvalidError
from tproxy.model.pod import Container, Pod
from tproxy.model.workload import nearest


@dataclass(frozen=True, slots=True)
class Source:
    """A container of a running pod, and the node it is on."""

    namespace: str
    pod: str
    node: str
    container: str

    def __str__(self) -> str:
        return f"container {self.container} of pod {self.pod}"


def choose(pods: Sequence[Pod], ports: Collection[int] = (), container: str = "") -> Source:
    """The container called `container`, else the one that declares one of `ports`, else the pod's default one.

    Ready pods come first, then the oldest names, so that asking again gives the same. Raises `InvalidError` if no pod
    has such a container, `ClusterError` if none runs.
    """
    running = sorted((pod for pod in pods if pod.running and pod.node), key=lambda pod: (not pod.ready, pod.name))
    if not running:
        raise ClusterError("none of its pods runs", "`kubectl get pods` shows what keeps them")
    chosen = [(pod, one) for pod in running if (one := _of(pod, ports, container)) is not None]
    if not chosen:
        known = [one.name for one in running[0].containers]
        near = nearest(container, known) or known
        raise InvalidError(
            f"pod {running[0].name} has no container {container}", f"there are: {', '.join(f'`{one}`' for one in near)}"
        )
    pod, found = chosen[0]
    return Source(pod.namespace, pod.name, pod.node, found.name)


def _of(pod: Pod, ports: Collection[int], container: str) -> Container | None:
    if container:
        return next((one for one in pod.containers if one.name == container), None)
    for one in pod.containers:
        if any(port.number in ports for port in one.ports):
            return one
    default = next((one for one in pod.containers if one.name == pod.default_container), None)
    return default or next(iter(pod.containers), None)
