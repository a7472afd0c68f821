"""What the daemon can be asked to do. One method per request; all of them raise TproxyError."""

import asyncio
import logging
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from tproxy.errors import ConflictError, InvalidError, TproxyError
from tproxy.kube.port import DAEMONSETS, DEPLOYMENTS, INTERCEPTS, NAMESPACES, SERVICES, SESSIONS, STATEFULSETS, Resource
from tproxy.tasks import Tasks
from tproxy.tunnel.conn import Buffer
from tproxy.version import VERSION
from tproxy_cli.daemon import asking, forcing, leaving, listing
from tproxy_cli.daemon.clock import watch_sleep
from tproxy_cli.daemon.cluster import LaptopCluster
from tproxy_cli.daemon.clusters import Clusters
from tproxy_cli.daemon.given.asking import ask
from tproxy_cli.daemon.given.directory import overlap
from tproxy_cli.daemon.given.running import GivenToRun
from tproxy_cli.daemon.hostwide.hostwide import HostWide
from tproxy_cli.daemon.intercepting import Interception
from tproxy_cli.daemon.objects import parse_intercepts, parse_sessions
from tproxy_cli.daemon.outbound.port import Outbound
from tproxy_cli.daemon.requests import (
    CompleteRequest,
    EnvironmentRequest,
    InterceptRequest,
    LeaveRequest,
    ListRequest,
    Where,
)
from tproxy_cli.daemon.runs.run import RunRequest
from tproxy_cli.daemon.runs.runs import Runs
from tproxy_cli.daemon.runs.ways import Ways
from tproxy_cli.daemon.session import LaptopSession
from tproxy_cli.daemon.state import SavedSession, StateFile

log = logging.getLogger(__name__)

RESTORE_SECONDS = 5.0
"""How long requests wait until the saved sessions have been assigned to their clusters."""

RESTORE_RETRY_SECONDS = 30.0

RUN_SECONDS = 20.0
"""How long the runs of an earlier daemon have to come back to this one before their intercepts are left."""

Json = dict[str, Any]
Progress = Callable[[str], None]


class Engine:
    """The daemon without its socket. `forwards` is a directory for sockets of port-forwards, emptied here."""

    def __init__(self, state: StateFile, forwards: Path) -> None:
        shutil.rmtree(forwards, ignore_errors=True)
        forwards.mkdir(mode=0o700)
        self._state = state
        self._waiting: list[SavedSession] = []  # saved ones whose cluster cannot be found for now
        self.runs = Runs(Ways(self._find), self._give, self._leave_run)
        self._clusters = Clusters(forwards, self._save, self.runs.connect)
        self._tasks = Tasks("engine")
        self._undoing = Tasks("undo")
        self._restored = asyncio.Event()
        self.host_wide = HostWide(self._find, forwards)

    def start(self) -> None:
        """Take up the sessions of an earlier daemon; begin to look out for sleep."""
        self._waiting = self._state.load()
        self._tasks.start(self._restore(), "restore")
        self._tasks.start(watch_sleep(self._woke), "sleep")

    @property
    def idle(self) -> bool:
        """Whether nothing would be missed if the daemon were not there."""
        return not self._waiting and not self._sessions() and self.host_wide.idle and self.runs.idle

    async def intercept(self, request: InterceptRequest, say: Progress) -> Json:
        """Create an intercept and wait until it is live; cancelled or failed, it leaves nothing behind."""
        cluster, namespace = await self._find(request.where)
        return await Interception(cluster, namespace, request, say, self._undoing).run()

    async def environment(self, request: EnvironmentRequest, say: Progress) -> Json:
        """A container's environment."""
        cluster, namespace = await self._find(request.where)
        return await ask(cluster, namespace, request, say, self._undoing)

    async def ask(self, request: asking.AskRequest) -> AsyncIterator[Buffer]:
        """A node daemon's answer (`tproxy.debug.answer`), as it comes."""
        cluster, namespace = await self._find(request.where)
        async with aclosing(asking.ask(cluster, namespace, request, self._undoing)) as pieces:  # type: ignore[type-var]
            async for piece in pieces:
                yield piece

    async def nodes(self, where: Where) -> Json:
        """The node daemons."""
        cluster, _ = await self._find(where)
        return {"nodes": await asking.nodes(cluster)}

    async def leave(self, request: LeaveRequest, say: Progress) -> Json:
        """Delete intercepts of this user. Goes on to the end even if nobody waits for it any more."""
        cluster, namespace = await self._find(request.where)
        namespaces = [namespace]
        if request.all and request.where.namespace is None:
            namespaces = sorted({namespace, *cluster.sessions})

        async def leave_in_all() -> Json | TproxyError:
            began = time.monotonic()
            try:
                if request.force:
                    answers = [await forcing.leave(cluster, namespace, request.names, say)]
                else:
                    answers = [
                        await leaving.leave(cluster, each, request.names, request.all, say) for each in namespaces
                    ]
            except TproxyError as error:
                return error
            left = [one for answer in answers for one in answer["left"]]
            return {"left": left, "seconds": round(time.monotonic() - began, 3)}

        answer: Json | TproxyError = await asyncio.shield(self._undoing.start(leave_in_all(), "leave"))
        if isinstance(answer, TproxyError):
            raise answer
        return answer

    async def _give(self, request: RunRequest, outbound: Outbound) -> GivenToRun:
        """What a run's container was given, by whichever pod its traffic leaves from."""
        if request.given is None or request.target is None:
            raise InvalidError("no container is named", "name a workload: `tproxy run --as TARGET`")
        for session in self._sessions():
            for held in session.held.values():
                if overlap(held.saved.files, request.given.directory):
                    raise ConflictError(
                        f"{held.saved.files} has the files of {held.saved.target}", "take another directory"
                    )
        cluster, namespace = await self._find(request.where)
        return GivenToRun(cluster, namespace, request.given, lambda: outbound.origin)

    async def _leave_run(self, run: str) -> None:
        """A run is over: its command gets no connections any more."""
        found = [(session, held) for session in self._sessions() for held in session.held.values()]
        for session, held in found:
            if held.saved.run == run and not held.leaving:
                await asyncio.shield(self._undoing.start(leaving.leave_for_good(session, held), "leave"))

    async def list_intercepts(self, request: ListRequest) -> Json:
        """Everybody's intercepts, as the cluster has them now."""
        cluster, namespace = await self._find(request.where)
        place = "" if request.all_namespaces else namespace
        listed, sessions = await asyncio.gather(cluster.api.list(INTERCEPTS, place), cluster.api.list(SESSIONS, place))
        owners = parse_sessions(sessions)
        shown = []
        for intercept in parse_intercepts(listed):
            ours = cluster.sessions.get(intercept.namespace)
            held = ours.held.get(intercept.name) if ours is not None else None
            if held is not None and held.saved.uid != intercept.uid:
                held = None
            views = ours.tunnels.views() if ours is not None else []
            missing = listing.without_tunnel(intercept.nodes, views)
            shown.append(listing.intercept_json(intercept, owners.get(intercept.session_uid), held, missing))
        shown += [
            listing.lost_json(one.session, cluster.host, one.held, one.why, one.at)
            for one in cluster.lost
            if place in ("", one.session.namespace)
        ]
        return {"intercepts": sorted(shown, key=lambda one: (one["namespace"], one["name"]))}

    async def ask_nodes(self) -> None:
        """Have the nodes tell what became of requests, where there are personal intercepts. Takes a second at most."""
        personal = [
            session
            for session in self._sessions()
            if any(held.saved.match is not None for held in session.held.values())
        ]
        await asyncio.gather(*(session.figures.refresh(session.tunnels.views()) for session in personal))

    def status(self) -> list[Json]:
        """Our sessions, from memory: it answers when no cluster does."""
        return [
            _session_status(cluster, namespace)
            for cluster in self._clusters.all()
            for namespace in sorted({*cluster.sessions, *(one.session.namespace for one in cluster.lost)})
            if (session := cluster.sessions.get(namespace)) is None
            or not session.ended
            or any(one.session.namespace == namespace for one in cluster.lost)
        ]

    async def complete(self, request: CompleteRequest) -> Json:
        """Names that begin with the prefix."""
        cluster, namespace = await self._clusters.find(request.where)
        if request.what == "namespaces":
            names = await _names(cluster, NAMESPACES, "")
        elif request.what == "intercepts":
            session = cluster.sessions.get(namespace)
            names = sorted(session.held) if session is not None else []
        else:
            kinds = {"": (DEPLOYMENTS, STATEFULSETS, DAEMONSETS), "svc/": (SERVICES,)}
            found = await asyncio.gather(
                *(_names(cluster, each, namespace) for resources in kinds.values() for each in resources),
                return_exceptions=True,
            )
            prefixes = [prefix for prefix, resources in kinds.items() for _ in resources]
            names = [
                prefix + name
                for prefix, each in zip(prefixes, found, strict=True)
                if not isinstance(each, BaseException)
                for name in each
            ]
        return {"items": [name for name in names if name.startswith(request.prefix)]}

    async def quit(self) -> int:
        """Leave everything; how many intercepts there were."""
        await self.host_wide.close()
        await self.runs.close()
        left = await asyncio.gather(*(session.end_now() for session in self._sessions()))
        self._waiting = []
        self._save()
        return sum(left)

    async def suspend(self) -> None:
        """Close tunnels, so that the pods serve again at once, and leave the objects for the next daemon."""
        await self.host_wide.close()
        await self.runs.close()
        await self._tasks.close()
        await asyncio.gather(*(session.suspend() for session in self._sessions()))

    async def close(self) -> None:
        """Let go of everything."""
        await self._undoing.close()
        await self._clusters.close()

    async def _find(self, where: Where) -> tuple[LaptopCluster, str]:
        """The cluster and namespace meant, with what an earlier daemon left there."""
        with suppress(TimeoutError):
            async with asyncio.timeout(RESTORE_SECONDS):
                await self._restored.wait()
        return await self._clusters.find(where)

    def _sessions(self) -> list[LaptopSession]:
        return [session for cluster in self._clusters.all() for session in cluster.live_sessions()]

    def _save(self) -> None:
        saved = [
            replace(session.saved, transport=cluster.transport)
            for cluster in self._clusters.all()
            for session in cluster.live_sessions()
        ]
        try:
            self._state.save([*saved, *self._waiting])
        except OSError as error:
            log.error("cannot save the sessions: %s", error)

    def _woke(self, slept: float) -> None:
        log.info("the laptop was asleep or the daemon stopped", extra={"seconds": round(slept)})
        for cluster in self._clusters.all():
            cluster.wake()

    async def _restore(self) -> None:
        """Take up saved sessions; those whose kubeconfig is gone for now, later, unless they have expired by then."""
        while self._waiting:
            for saved in list(self._waiting):
                try:
                    await self._clusters.restore(saved)
                except TproxyError as error:
                    if time.time() - saved.renewed_at < saved.ttl_seconds:
                        log.warning("cannot resume yet: %s", error.message, extra={"session": saved.name})
                        continue
                    log.warning("given up a session: %s", error.message, extra={"session": saved.name})
                self._waiting.remove(saved)
            self._save()
            self._restored.set()
            if self._waiting:
                await asyncio.sleep(RESTORE_RETRY_SECONDS)
        self._restored.set()
        await asyncio.sleep(RUN_SECONDS)
        runs = {held.saved.run for session in self._sessions() for held in session.held.values()}
        for run in runs - {"", *self.runs.ids}:
            log.warning("a run has not come back", extra={"run": run})
            await self._leave_run(run)


def daemon_status(started: float, socket: Path, log_path: Path, state: str) -> Json:
    """The daemon itself; `started` in monotonic seconds."""
    return {
        "pid": os.getpid(),
        "version": VERSION,
        "uptimeSeconds": round(time.monotonic() - started, 3),
        "socket": str(socket),
        "log": str(log_path),
        "state": state,
    }


def _session_status(cluster: LaptopCluster, namespace: str) -> Json:
    session = cluster.sessions.get(namespace)
    live = session if session is not None and not session.ended else None
    views = live.tunnels.views() if live is not None else []
    shown = []
    if live is not None:
        for held in live.held.values():
            nodes = held.observed.nodes if held.observed is not None else {}
            one = listing.held_json(live.saved, cluster.host, held, listing.without_tunnel(nodes, views))
            shown.append({**one, "requests": listing.requests_json(live.figures.of(held.saved.uid))})
    shown += [
        listing.lost_json(one.session, cluster.host, one.held, one.why, one.at)
        for one in cluster.lost
        if one.session.namespace == namespace
    ]
    return {
        "context": cluster.config.context,
        "server": cluster.config.server,
        "namespace": namespace,
        "transport": cluster.transport,
        "user": session.saved.user if session is not None else "",
        "session": live.name if live is not None else None,
        "nodes": [listing.tunnel_json(view, cluster.transport) for view in views],
        "intercepts": sorted(shown, key=lambda one: str(one["name"])),
    }


async def _names(cluster: LaptopCluster, resource: Resource, namespace: str) -> list[str]:
    return sorted(each["metadata"]["name"] for each in await cluster.api.list(resource, namespace))
