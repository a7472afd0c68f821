"""Which Services send to a pod, and where."""

from collections.abc import Iterable, Iterator

from tproxy.model.pod import Pod, Service


def targets(services: Iterable[Service], pod: Pod) -> Iterator[tuple[str, int]]:
    """Services that send to the pod, by name, and to which of its TCP ports."""
    names = {one.name: one.number for container in pod.containers for one in container.ports if one.name}
    for service in services:
        if service.namespace == pod.namespace and service.selects(pod):
            for one in service.ports:
                target = names.get(one.target) if isinstance(one.target, str) else one.target
                if target and one.protocol == "TCP":
                    yield service.name, target


def elsewhere(found: Iterable[tuple[str, int]], port: int) -> list[str]:
    """Those that send to another port than this one, for people."""
    return [f"Service {name} sends to {target}" for name, target in found if target != port]
