"""What people write on the command line for a workload and its ports, and what it means."""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tproxy.errors import InvalidError
from tproxy.model.fields import NAME, quote
from tproxy.model.intercept import InterceptPort, Target
from tproxy.model.pod import Pod, Service

_KINDS = {
    "Deployment": ("deploy", "deployment", "deployments"),
    "StatefulSet": ("sts", "statefulset", "statefulsets"),
    "DaemonSet": ("ds", "daemonset", "daemonsets"),
    "ReplicaSet": ("rs", "replicaset", "replicasets"),
    "Job": ("job", "jobs"),
    "Pod": ("po", "pod", "pods"),
    "Service": ("svc", "service", "services"),
}
PROTOCOLS = ("TCP", "UDP")
_KIND_OF = {alias: kind for kind, aliases in _KINDS.items() for alias in aliases}
_CUSTOM_KIND = re.compile(r"[A-Z][A-Za-z0-9]{0,62}")
_PORT_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class TargetQuery:
    """A workload as named by a person; `kind` None means: find out."""

    kind: str | None
    name: str


@dataclass(frozen=True, slots=True)
class PortMapping:
    """A port of the laptop and the pod's port it stands for: a number, a name, or None for "the obvious one".

    `protocol` None means what the port is declared as, and TCP where that leaves a choice.
    """

    local: int
    remote: int | str | None = None
    protocol: str | None = None


def parse_target(text: str) -> TargetQuery:
    """Read `web`, `deploy/web`, `svc/web`, `Rollout/web`; `InvalidError` on anything else."""
    kind, slash, name = text.rpartition("/")
    if NAME.fullmatch(name) is None:
        raise InvalidError(
            f"{quote(text)} is not the name of a workload", hint="write `web`, `deploy/web`, `svc/web` or `pod/web-0`"
        )
    if not slash:
        return TargetQuery(None, name)
    known = _KIND_OF.get(kind.lower())
    if known is None and _CUSTOM_KIND.fullmatch(kind) is None:
        raise InvalidError(
            f"{quote(kind)} is not a kind of workload",
            hint="use one of "
            + ", ".join(f"`{aliases[0]}`" for aliases in _KINDS.values())
            + ", or a Kind in capitals",
        )
    return TargetQuery(known or kind, name)


def nearest(name: str, candidates: Iterable[str], limit: int = 3) -> list[str]:
    """Those of `candidates` that somebody who typed `name` may have meant, best first."""
    return difflib.get_close_matches(name, sorted(set(candidates)), n=limit, cutoff=0.6)


def matches(target: Target, pod: Pod, chain: Iterable[tuple[str, str]], services: Iterable[Service]) -> bool:
    """Whether `pod` belongs to `target`.

    `chain` are kind and name of the pod's owners, owners' owners and so on; `services` may be of any namespace.
    """
    if target.kind == "Pod":
        return pod.name == target.name
    if target.kind == "Service":
        return any(service.name == target.name and service.selects(pod) for service in services)
    return (target.kind, target.name) in chain


def parse_ports(text: str) -> PortMapping:
    """Read `3000`, `3000:8080` or `3000:http`, each also with `/udp` or `/tcp`; `InvalidError` on anything else."""
    ports, slash, protocol = text.partition("/")
    if slash and protocol not in ("tcp", "udp"):
        raise _bad_port(text)
    wanted = protocol.upper() or None
    left, colon, right = ports.partition(":")
    if not colon:
        return PortMapping(_number(left, text), protocol=wanted)
    if right.isdecimal():
        return PortMapping(_number(left, text), _number(right, text), wanted)
    # A name has a letter: digits and hyphens alone are more likely a slip of the finger.
    if _PORT_NAME.fullmatch(right) is None or not any(char.isalpha() for char in right):
        raise _bad_port(text)
    return PortMapping(_number(left, text), right, wanted)


def _number(digits: str, text: str) -> int:
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 5 and 1 <= int(digits) <= 65535):
        raise _bad_port(text)
    return int(digits)


def _bad_port(text: str) -> InvalidError:
    return InvalidError(
        f"{quote(text)} is not a port mapping",
        hint="write LOCAL or LOCAL:REMOTE, as in `--port 3000`, `--port 3000:8080`, `--port 3000:http` or"
        " `--port 5353:53/udp`",
    )


@dataclass(frozen=True, slots=True)
class _Offer:
    """A port that can be asked for by name or number, and the pod's port numbers behind it."""

    port: InterceptPort
    names: frozenset[str]
    targets: frozenset[int]

    @property
    def number(self) -> int:
        return self.port.port

    def __str__(self) -> str:
        return str(self.port) + "".join(f" ({name})" for name in sorted(self.names))


def resolve_ports(
    mappings: Sequence[PortMapping], pods: Sequence[Pod], service: Service | None = None
) -> list[tuple[int, InterceptPort]]:
    """The pod's port for each mapping, with the laptop's port it goes to.

    `service` is the Service the target names, if it does: then names and numbers are its ports first. A name may stand
    for different numbers in different pods; each gets an entry. Where nothing is declared a number is taken as it is.
    Raises `InvalidError` listing the ports there are, also if there is no mapping.
    """
    offers = (_service_offers(service, pods) if service is not None else []) or _container_offers(pods)
    if not mappings:
        raise _no_mapping(offers)
    resolved: dict[InterceptPort, int] = {}
    for mapping in mappings:
        for port in sorted(_find(mapping, offers)):
            if port in resolved:
                raise InvalidError(f"port {port} of the pod is mapped twice", hint="give each port of the pod once")
            resolved[port] = mapping.local
    return [(local, port) for port, local in resolved.items()]


def _find(mapping: PortMapping, offers: Sequence[_Offer]) -> frozenset[InterceptPort]:
    """The pod's ports that `mapping` means."""
    for protocol in (mapping.protocol,) if mapping.protocol else PROTOCOLS:
        of_protocol = [offer for offer in offers if offer.port.protocol == protocol]
        if numbers := _find_among(mapping, of_protocol):
            return frozenset(InterceptPort(number, protocol) for number in numbers)
    wanted = mapping.local if mapping.remote is None else mapping.remote
    # Nobody has to declare a port, least of all of the other protocol.
    protocol = mapping.protocol or "TCP"
    declared = [offer for offer in offers if mapping.protocol in (None, offer.port.protocol)]
    if declared or not isinstance(wanted, int):
        raise _no_such_port(mapping, wanted, offers)
    return frozenset({InterceptPort(wanted, protocol)})


def _find_among(mapping: PortMapping, offers: Sequence[_Offer]) -> frozenset[int]:
    """Among the ports of one protocol; none if there is no such one."""
    if mapping.remote is None and len(offers) == 1:
        found = list(offers)
        wanted: int | str = offers[0].number
    else:
        wanted = mapping.local if mapping.remote is None else mapping.remote
        # A Service's own number goes before the pod's: `80` of a Service 80 -> 8080 means what its clients mean.
        found = [offer for offer in offers if wanted == offer.number or wanted in offer.names]
        if not found and isinstance(wanted, int) and any(wanted in offer.targets for offer in offers):
            return frozenset({wanted})
    targets = frozenset[int]().union(*(offer.targets for offer in found))
    if found and not targets:
        raise InvalidError(
            f"port {wanted} of the Service points to a named port that none of its pods has",
            hint="give the number of the pod's port",
        )
    return targets


def _no_mapping(offers: Sequence[_Offer]) -> InvalidError:
    there = f"; ports there are: {', '.join(str(offer) for offer in offers)}" if offers else ""
    remote = offers[0].port if offers else "REMOTE"
    return InvalidError(
        f"no port was given{there}",
        hint=f"say to which port of this laptop connections are to go, as in `--port 3000:{remote}`",
    )


def _no_such_port(mapping: PortMapping, wanted: int | str, offers: Sequence[_Offer]) -> InvalidError:
    which = f"port {wanted}" if isinstance(wanted, int) else f"port named {wanted}"
    if mapping.protocol:
        which = f"{mapping.protocol} {which}"
    if not offers:
        return InvalidError(f"there is no {which}: the pods declare no ports", hint="give the port's number")
    return InvalidError(
        f"there is no {which}; ports there are: {', '.join(str(offer) for offer in offers)}",
        hint=f"say which one you mean, as in `--port {mapping.local}:{offers[0].port}`",
    )


def _container_offers(pods: Sequence[Pod]) -> list[_Offer]:
    names: dict[InterceptPort, set[str]] = {}
    for pod in pods:
        for container in pod.containers:
            for port in container.ports:
                if port.protocol in PROTOCOLS:
                    declared = InterceptPort(port.number, port.protocol)
                    names.setdefault(declared, set()).update({port.name} - {""})
    return [_Offer(port, frozenset(names[port]), frozenset({port.port})) for port in sorted(names)]


def _service_offers(service: Service, pods: Sequence[Pod]) -> list[_Offer]:
    containers = _container_offers(pods)
    offers = []
    for port in service.ports:
        if port.protocol not in PROTOCOLS:
            continue
        target = port.target
        if isinstance(target, int):
            targets = frozenset({target})
        else:
            named = [one for one in containers if target in one.names and one.port.protocol == port.protocol]
            targets = frozenset[int]().union(*(one.targets for one in named))
        offers.append(_Offer(InterceptPort(port.port, port.protocol), frozenset({port.name} - {""}), targets))
    return offers
