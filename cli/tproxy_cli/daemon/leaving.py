"""`tproxy leave`: find what is meant, ours first, then what an earlier daemon of this user left in the cluster."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tproxy.errors import InvalidError, TproxyError
from tproxy.kube.port import INTERCEPTS, SESSIONS
from tproxy.model.intercept import Intercept, Target
from tproxy.model.session import Session
from tproxy.model.workload import nearest, parse_target
from tproxy_cli.daemon.cluster import LaptopCluster, Lost
from tproxy_cli.daemon.held import Held
from tproxy_cli.daemon.objects import parse_intercepts, parse_sessions
from tproxy_cli.daemon.session import LaptopSession

log = logging.getLogger(__name__)

RESUME_SECONDS = 10.0

Json = dict[str, Any]
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Orphan:
    """An intercept of this user that no running daemon holds, as far as we can tell."""

    intercept: Intercept
    session: Session
    here: bool
    """Made on this laptop."""


def names(name: str, intercept_name: str, target: Target) -> bool:
    """Whether `name`, as a person wrote it, means this intercept: its own name, its workload's, or `kind/name`."""
    if name == intercept_name:
        return True
    query = parse_target(name)
    return query.name == target.name and query.kind in (None, target.kind)


async def leave(cluster: LaptopCluster, namespace: str, wanted: Sequence[str], everything: bool, say: Progress) -> Json:
    """Leave the intercepts called `wanted`, or all of this laptop's. Raises TproxyError; unknown names first."""
    began = time.monotonic()
    session = await _own_session(cluster, namespace, say)
    held = list(session.held.values()) if session is not None else []
    lost = [one for one in cluster.lost if one.session.namespace == namespace]
    orphans: list[Orphan] = []
    if everything or not all(any(names(name, one.name, one.saved.target) for one in held) for name in wanted):
        orphans = await _orphans(cluster, namespace, session)
    if everything:
        orphans = [one for one in orphans if one.here]
    else:
        _check_known(wanted, held, lost, orphans, _elsewhere(cluster, namespace))
        held = [one for one in held if _named(wanted, one.name, one.saved.target)]
        lost = [one for one in lost if _named(wanted, one.held.name, one.held.saved.target)]
        # Somebody who shares this user name may work on another machine: theirs only by its own name.
        orphans = [
            one
            for one in orphans
            if one.intercept.name in wanted or (one.here and _named(wanted, one.intercept.name, one.intercept.target))
        ]
    left = [*(_left(one.name, namespace, one.saved.target) for one in held)]
    left += [_left(one.held.name, namespace, one.held.saved.target) for one in lost]
    left += [_left(one.intercept.name, namespace, one.intercept.target) for one in orphans]
    cluster.forget_lost(lambda one: one in lost)
    if held or orphans:
        say(f"leaving {', '.join(one['name'] for one in left)}")
    await asyncio.gather(
        *(_leave_held(session, one, say) for one in held if session is not None),
        *(_leave_orphan(cluster, one) for one in orphans),
    )
    if session is not None:
        await cluster.copies[namespace].settle()
    await _delete_empty(cluster, {one.session.name: one.session for one in orphans}.values())
    return {"left": left, "seconds": round(time.monotonic() - began, 3)}


async def _own_session(cluster: LaptopCluster, namespace: str, say: Progress) -> LaptopSession | None:
    session = cluster.sessions.get(namespace)
    if session is None or session.ended:
        return None
    deadline = time.monotonic() + RESUME_SECONDS
    while session.resuming:
        say("taking up the session of an earlier daemon")
        if not await session.wait_changed(session.changed, deadline - time.monotonic()):
            break
    return None if session.ended else session


async def _orphans(cluster: LaptopCluster, namespace: str, own: LaptopSession | None) -> list[Orphan]:
    """This user's intercepts in the cluster that are not ours."""
    listed, sessions, user = await asyncio.gather(
        cluster.api.list(INTERCEPTS, namespace), cluster.api.list(SESSIONS, namespace), cluster.user()
    )
    by_uid = parse_sessions(sessions)
    found = []
    for intercept in parse_intercepts(listed):
        session = by_uid.get(intercept.session_uid)
        if session is not None and session.user == user and (own is None or intercept.name not in own.held):
            found.append(Orphan(intercept, session, session.host == cluster.host))
    return found


def _elsewhere(cluster: LaptopCluster, namespace: str) -> list[tuple[str, Held]]:
    """Our intercepts in other namespaces, with their namespace."""
    others = [(name, session) for name, session in sorted(cluster.sessions.items()) if name != namespace]
    return [(name, held) for name, session in others if not session.ended for held in session.held.values()]


def _check_known(
    wanted: Sequence[str],
    held: Sequence[Held],
    lost: Sequence[Lost],
    orphans: Sequence[Orphan],
    elsewhere: Sequence[tuple[str, Held]],
) -> None:
    here = [(one.name, one.saved.target) for one in (*held, *(one.held for one in lost))]
    here += [(one.intercept.name, one.intercept.target) for one in orphans if one.here]
    by_name_only = {one.intercept.name for one in orphans}
    for name in wanted:
        if name in by_name_only or any(names(name, *known) for known in here):
            continue
        existing = sorted({known for known, _ in here} | by_name_only)
        hint = "you have none here; `tproxy list -A` shows those of all namespaces"
        if meant := [place for place, one in elsewhere if names(name, one.name, one.saved.target)]:
            hint = f"in another namespace you have: `tproxy leave {name} -n {meant[0]}`"
        elif existing:
            hint = f"there are: {', '.join(f'`{one}`' for one in nearest(name, existing) or existing[:10])}"
        raise InvalidError(f"you have no intercept called {name} in this namespace", hint)


def _named(wanted: Iterable[str], name: str, target: Target) -> bool:
    return any(names(one, name, target) for one in wanted)


async def _leave_held(session: LaptopSession, held: Held, say: Progress) -> None:
    if not held.saved.uid:
        raise TproxyError(f"{held.name} is still being created", "wait for it, or interrupt `tproxy intercept`")
    if not await session.leave(held):
        say(f"{held.name}: not every node has confirmed yet")


async def leave_for_good(session: LaptopSession, held: Held) -> None:
    """Leave it, whether it has been created yet or not. What cannot be deleted now is logged."""
    try:
        if held.saved.uid:
            await session.leave(held)
            return
    except TproxyError as error:
        log.warning("cannot leave an intercept: %s", error.message, extra={"intercept": held.name})
    await session.discard(held)


async def _leave_orphan(cluster: LaptopCluster, orphan: Orphan) -> None:
    intercept = orphan.intercept
    await cluster.api.delete(INTERCEPTS, intercept.name, intercept.namespace, uid=intercept.uid)


async def _delete_empty(cluster: LaptopCluster, sessions: Iterable[Session]) -> None:
    """Delete those sessions of earlier daemons that have no intercepts any more."""
    for session in sessions:
        listed = await cluster.api.list(INTERCEPTS, session.namespace)
        if any(one.session_uid == session.uid for one in parse_intercepts(listed)):
            continue
        try:
            await cluster.api.delete(SESSIONS, session.name, session.namespace, uid=session.uid)
        except TproxyError as error:
            log.warning("cannot delete a session, it will expire: %s", error, extra={"session": session.name})


def _left(name: str, namespace: str, target: Target) -> Json:
    return {"name": name, "namespace": namespace, "target": str(target)}
