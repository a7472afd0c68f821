"""Pods, sessions and intercepts for tests, with everything that does not matter filled in."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from tproxy.model.intercept import Intercept, InterceptPort, Target
from tproxy.model.match import Match
from tproxy.model.pod import OwnerRef, Pod
from tproxy.model.session import Session, hash_token

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def pod(
    name: str = "web-1",
    *,
    phase: str = "Running",
    addresses: Sequence[str] = ("10.244.1.5",),
    host_network: bool = False,
    runtime_class: str = "",
    owner: str = "web",
    deleting: bool = False,
    namespace: str = "shop",
) -> Pod:
    return Pod(
        namespace,
        name,
        f"uid-{name}",
        node="n1",
        phase=phase,
        addresses=tuple(addresses),
        host_network=host_network,
        runtime_class=runtime_class,
        labels={"app": owner},
        owners=(OwnerRef("apps/v1", "Deployment", owner, f"uid-{owner}", True),),
        deleting=deleting,
    )


def token(name: str) -> bytes:
    return name.encode().ljust(32, b".")


def session(name: str = "alice", *, uid: str = "", namespace: str = "shop", renewed: datetime | None = NOON) -> Session:
    return Session(
        namespace, name, uid or f"uid-{name}", hash_token(token(name)), name, f"{name}-laptop", renewed, 3600
    )


def intercept(
    name: str = "web-1a2b",
    *,
    of: str = "alice",
    ports: Sequence[int] = (80,),
    protocol: str = "TCP",
    target: Target | None = None,
    minute: int = 0,
    match: Match | None = None,
    deleting: bool = False,
    namespace: str = "shop",
) -> Intercept:
    return Intercept(
        namespace,
        name,
        f"uid-{name}",
        of,
        f"uid-{of}",
        target or Target("Deployment", "web"),
        tuple(InterceptPort(port, protocol) for port in ports),
        match,
        created=NOON + timedelta(minutes=minute),
        deleting=deleting,
    )
