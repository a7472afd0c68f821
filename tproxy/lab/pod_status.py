"""The status of a pod, made of what its node knows. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tproxy.kube.port import Object
from tproxy.lab.api.store import now


class ContainerFacts(Protocol):
    """What is known of a container."""

    name: str
    ready: bool
    finished: bool
    unready_reason: str

    @property
    def started(self) -> bool:
        """Whether it has run at all."""
        ...

    @property
    def succeeded(self) -> bool:
        """Whether it has ended for good, with 0."""
        ...

    def status(self) -> Object:
        """Its entry in `status.containerStatuses`."""
        ...


@dataclass(frozen=True, slots=True)
class PodFacts:
    """What is known of a pod apart from its containers. `trouble` says why there is no `sandbox`."""

    host_addresses: Sequence[str]
    addresses: Sequence[str]
    sandbox: bool
    trouble: str
    started_at: str


class PodReporter:
    """Writes the statuses of one pod; remembers since when each condition has been as it is."""

    def __init__(self) -> None:
        self._since: dict[str, tuple[bool, str]] = {}

    def status(self, facts: PodFacts, containers: Sequence[ContainerFacts]) -> Object:
        """The whole `status`; None as a value means that a merge patch is to remove the field."""
        unready = [container for container in containers if not container.ready]
        reason = "ContainersNotReady" if unready else ""
        message = _unready_message(unready)
        return {
            "phase": phase(containers),
            "hostIP": facts.host_addresses[0],
            "hostIPs": _ips(facts.host_addresses),
            "podIP": facts.addresses[0] if facts.addresses else None,
            "podIPs": _ips(facts.addresses),
            "startTime": facts.started_at,
            "qosClass": "Burstable",
            "message": facts.trouble or None,
            "conditions": [
                self._condition("PodScheduled", True),
                self._condition("PodReadyToStartContainers", facts.sandbox, message=facts.trouble),
                self._condition("Initialized", True),
                self._condition("ContainersReady", not unready, reason, message),
                self._condition("Ready", facts.sandbox and not unready, reason, message),
            ],
            "containerStatuses": [container.status() for container in containers],
        }

    def _condition(self, kind: str, true: bool, reason: str = "", message: str = "") -> Object:
        was, since = self._since.get(kind, (None, ""))
        if was != true:
            since = now()
            self._since[kind] = (true, since)
        condition: Object = {"type": kind, "status": "True" if true else "False", "lastTransitionTime": since}
        return condition | ({"reason": reason} if reason else {}) | ({"message": message} if message else {})


def phase(containers: Sequence[ContainerFacts]) -> str:
    """Pending, Running, Succeeded or Failed."""
    if all(container.finished for container in containers):
        return "Succeeded" if all(container.succeeded for container in containers) else "Failed"
    return "Running" if any(container.started for container in containers) else "Pending"


def _unready_message(unready: Sequence[ContainerFacts]) -> str:
    if not unready:
        return ""
    reasons = "; ".join(container.unready_reason for container in unready if container.unready_reason)
    names = " ".join(container.name for container in unready)
    return f"containers with unready status: [{names}]" + (f": {reasons}" if reasons else "")


def _ips(addresses: Sequence[str]) -> list[Object]:
    return [{"ip": address} for address in addresses]
