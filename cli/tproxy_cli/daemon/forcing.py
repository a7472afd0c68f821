"""`tproxy leave --force`: end intercepts of others, for those whom the cluster allows to delete them."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from tproxy.errors import DeniedError, InvalidError
from tproxy.kube.errors import NotFoundError
from tproxy.kube.port import INTERCEPTS, SESSIONS
from tproxy.model.intercept import Intercept
from tproxy.model.session import Session
from tproxy.model.workload import nearest
from tproxy_cli.daemon import leaving
from tproxy_cli.daemon.cluster import LaptopCluster
from tproxy_cli.daemon.objects import parse_intercepts, parse_sessions

Json = dict[str, Any]
Progress = Callable[[str], None]


async def leave(cluster: LaptopCluster, namespace: str, wanted: Sequence[str], say: Progress) -> Json:
    """Leave the intercepts of exactly these names, whoever's they are. Raises TproxyError; unknown names first."""
    began = time.monotonic()
    listed, sessions = await asyncio.gather(
        cluster.api.list(INTERCEPTS, namespace), cluster.api.list(SESSIONS, namespace)
    )
    found = {one.name: one for one in parse_intercepts(listed)}
    owners = parse_sessions(sessions)
    for name in wanted:
        if name not in found:
            raise _unknown(name, found, owners)
    own = cluster.sessions.get(namespace)
    ours = [name for name in wanted if own is not None and not own.ended and name in own.held]
    left: list[Json] = []
    if ours:
        left += (await leaving.leave(cluster, namespace, ours, False, say))["left"]
    for name in dict.fromkeys(wanted):
        if name in ours:
            continue
        intercept = found[name]
        owner = owners.get(intercept.session_uid)
        whose = owner.user if owner is not None else ""
        say(f"ending {name} of {_who(owner)}")
        await _delete(cluster, intercept, owner)
        left.append({"name": name, "namespace": namespace, "target": str(intercept.target), "user": whose})
    return {"left": left, "seconds": round(time.monotonic() - began, 3)}


async def _delete(cluster: LaptopCluster, intercept: Intercept, owner: Session | None) -> None:
    try:
        await cluster.api.delete(INTERCEPTS, intercept.name, intercept.namespace, uid=intercept.uid)
    except NotFoundError:
        return  # its owner was faster
    except DeniedError as error:
        raise DeniedError(
            f"{intercept.name} is {_who(owner)}'s, and you may not end it: {error.message}",
            f"ask {_who(owner)} to run `tproxy leave {intercept.name}`, or an administrator to delete it",
        ) from error


def _unknown(name: str, found: dict[str, Intercept], owners: dict[str, Session]) -> InvalidError:
    meant = [one for one in found.values() if leaving.names(name, one.name, one.target)]
    listed = meant or [found[each] for each in nearest(name, found) or sorted(found)[:10]]
    hint = ", ".join(f"`{one.name}` of {_who(owners.get(one.session_uid))}" for one in listed)
    return InvalidError(
        f"there is no intercept called {name} in this namespace; --force takes names of intercepts only",
        f"there are: {hint}" if hint else "`tproxy list -A` shows those of all namespaces",
    )


def _who(owner: Session | None) -> str:
    if owner is None or not owner.user:
        return "somebody unknown"
    return f"{owner.user} on {owner.host}" if owner.host else owner.user
