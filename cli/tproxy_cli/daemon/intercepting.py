"""`tproxy intercept`: check everything, then change things, then wait until the pods are steered; or undo it all.

resolve target ┐
node daemons   ├─▶ checks ─▶ Session, Intercept ┐
rights, user   ┘           tunnels to the nodes ┴─▶ wait until every running pod is Ready
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from tproxy.errors import ClusterError, ConflictError, InvalidError, TproxyError
from tproxy.kube.errors import AlreadyExistsError
from tproxy.kube.port import INTERCEPTS, SESSIONS
from tproxy.kube.workloads import Resolved, resolve
from tproxy.model.intercept import Intercept, InterceptPort, NodeState, Target
from tproxy.model.pod import Pod
from tproxy.model.session import Session
from tproxy.model.workload import resolve_ports
from tproxy.tasks import Tasks
from tproxy_cli.daemon import laptop_ports, ours
from tproxy_cli.daemon.cluster import LaptopCluster
from tproxy_cli.daemon.dial import no_daemon
from tproxy_cli.daemon.given.bringing import Given
from tproxy_cli.daemon.held import Held
from tproxy_cli.daemon.listing import without_tunnel
from tproxy_cli.daemon.objects import parse_intercepts, parse_sessions
from tproxy_cli.daemon.readiness import PodView, Verdict, judge, placed
from tproxy_cli.daemon.requests import InterceptRequest
from tproxy_cli.daemon.session import LaptopSession
from tproxy_cli.daemon.state import LaptopPort, SavedIntercept

LOOK_SECONDS = 1.0
"""How often the pods are looked up anew while waiting: some may have gone, others have come."""

NAME_TRIES = 3
MAX_NAMED_PODS = 5

Json = dict[str, Any]
Progress = Callable[[str], None]
T = TypeVar("T")


class Interception:
    """One request. `undoing` outlives it: what was begun is undone even if nobody waits for that any more."""

    def __init__(
        self, cluster: LaptopCluster, namespace: str, request: InterceptRequest, say: Progress, undoing: Tasks
    ) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._request = request
        self._say = say
        self._undoing = undoing
        self._deadline = time.monotonic() + request.timeout

    async def run(self) -> Json:
        """Do it. Raises TproxyError, having left nothing behind."""
        began, request = time.monotonic(), self._request
        self._say(f"looking for {request.target.name} in namespace {self._namespace}")
        checked, resolved, daemons, user = await asyncio.gather(
            self._cluster.check_access(self._namespace),
            self._resolve(),
            self._cluster.node_daemons(),
            self._cluster.user(),
            return_exceptions=True,
        )
        _value(checked)
        target = _value(resolved)
        pods = placed(target.pods)
        ports = tuple(
            LaptopPort(laptop, pod) for laptop, pod in resolve_ports(self._request.ports, target.pods, target.service)
        )
        _check_datagrams(ports, request)
        for pod in pods:
            if pod.node not in _value(daemons):
                raise no_daemon(pod.node)
        given = Given(self._cluster, self._namespace, self._request, self._say)
        given.check(pods, ports)
        session = await self._session(_value(user))
        wanted = self._wanted(session, target.target, ports)
        held = ours.same(session.held.values(), wanted)
        created = held is None
        if held is None:
            held = Held(wanted)
            verdict, brought = await self._create(session, held, pods, given)
        else:
            held.saved = replace(held.saved, ports=ports)
            if wanted.files:
                held.saved = replace(held.saved, files=wanted.files, container=wanted.container)
            session.adopt(held)
            verdict = await self._wait(session, held, pods)
            brought = await given.bring(session, held, pods)
        self._cluster.forget_lost(
            lambda one: one.session.namespace == self._namespace and ours.in_the_way(one.held.saved, wanted)
        )
        return {
            "name": held.name,
            "namespace": self._namespace,
            "target": str(held.saved.target),
            "ports": [{"local": port.laptop, "remote": port.pod.port, "protocol": port.pod.protocol} for port in ports],
            "match": wanted.match.to_object() if wanted.match is not None else None,
            "freshHeader": request.asked.fresh,
            "pods": [_pod_json(pod) for pod in verdict.pods],
            "created": created,
            "run": request.run,
            "seconds": round(time.monotonic() - began, 3),
            "warnings": [] if request.run else _warnings(ports),
            **brought,
        }

    def _wanted(self, session: LaptopSession, target: Target, ports: tuple[LaptopPort, ...]) -> SavedIntercept:
        request = self._request
        known = ours.fresh_value(session.held.values(), target, ports) if request.asked.fresh else ""
        return SavedIntercept(
            name=_name(target),
            uid="",
            target=target,
            ports=ports,
            on_disconnect=request.on_disconnect,
            probes=request.probes,
            match=request.asked.with_header(known),
            on_refused=request.on_refused,
            existing=request.existing,
            drain_seconds=request.drain_seconds,
            files=request.files,
            container=request.container,
            run=request.run,
            proxy_protocol=request.proxy_protocol,
        )

    async def _resolve(self) -> Resolved:
        return await resolve(self._cluster.api, self._namespace, self._request.target)

    async def _session(self, user: str) -> LaptopSession:
        """Our session here; if an earlier daemon's is being taken up, once it has been."""
        while True:
            session = self._cluster.session(self._namespace, user)
            changed = session.changed
            if not session.resuming:
                return session
            self._say("taking up the session of an earlier daemon")
            if not await session.wait_changed(changed, self._deadline - time.monotonic()):
                raise ClusterError("the session of an earlier daemon could not be taken up in time", "try again")

    async def _create(
        self, session: LaptopSession, held: Held, pods: Sequence[Pod], given: Given
    ) -> tuple[Verdict, Json]:
        session.adopt(held)
        try:
            session.prepare()
            # The node waits a moment for a Session that is just being created: no need to wait for it here.
            session.tunnels.want(pod.node for pod in pods)
            self._say(f"creating an intercept of {held.saved.target}")
            await session.begin()
            await _create_named(session, held)
            return await self._wait(session, held, pods), await given.bring(session, held, pods)
        except BaseException:
            await asyncio.shield(self._undoing.start(session.discard(held), "undo"))
            raise

    async def _wait(self, session: LaptopSession, held: Held, pods: Sequence[Pod]) -> Verdict:
        """Wait until every pod is steered. Raises TproxyError if that will not happen, or not in time."""
        looked_at = time.monotonic()
        said = ""
        while True:
            changed = session.changed
            nodes = {pod.node for pod in pods}
            views = session.tunnels.views()
            verdict = judge(pods, held.observed, without_tunnel(nodes, views))
            if session.ended:
                raise TproxyError("the daemon gave up the session meanwhile", "run the command again")
            if held.name not in session.held:
                raise ClusterError(
                    f"the intercept {held.name} was left or deleted while it was being set up",
                    "find out by whom, or run the command again",
                )
            if verdict.live:
                return verdict
            if taken := verdict.first(NodeState.CONFLICTED):
                raise await self._conflict(session, held, taken)
            if refused := verdict.first(NodeState.REFUSED):
                raise ClusterError(
                    f"{held.saved.target} cannot be intercepted: {refused}", "choose a workload that can be"
                )
            for view in views:
                if view.node in nodes and view.hopeless is not None:
                    raise view.hopeless
            if (news := _progress(verdict)) != said:
                said = news
                self._say(news)
            now = time.monotonic()
            if now >= self._deadline:
                raise self._too_late(held.saved.target, verdict)
            await session.wait_changed(changed, min(self._deadline, looked_at + LOOK_SECONDS) - now)
            if time.monotonic() >= looked_at + LOOK_SECONDS:
                pods = placed((await self._resolve()).pods)
                session.tunnels.want(pod.node for pod in pods)
                looked_at = time.monotonic()

    async def _conflict(self, session: LaptopSession, held: Held, taken: PodView) -> ConflictError:
        """Name who has the port, as far as we may know."""
        target = held.saved.target
        try:
            listed, sessions = await asyncio.gather(
                self._cluster.api.list(INTERCEPTS, self._namespace),
                self._cluster.api.list(SESSIONS, self._namespace),
            )
            by_uid = parse_sessions(sessions)
        except TproxyError:
            listed, by_uid = [], {}
        for other in parse_intercepts(listed):
            owner = by_uid.get(other.session_uid)
            if other.uid != held.saved.uid and owner is not None and other.name in taken.message.split():
                mine = (owner.user, owner.host) == (session.saved.user, self._cluster.host)
                return _taken(target, other, owner, mine)
        return ConflictError(f"{target} is already intercepted: {taken}", "see `tproxy list`")

    def _too_late(self, target: Target, verdict: Verdict) -> ClusterError:
        missing = verdict.missing
        named = "; ".join(str(pod) for pod in missing[:MAX_NAMED_PODS])
        more = f"; and {len(missing) - MAX_NAMED_PODS} more pods" if len(missing) > MAX_NAMED_PODS else ""
        return ClusterError(
            f"{target} is not intercepted after {self._request.timeout:g} s: {named}{more}",
            "`tproxy doctor` checks the cluster side; `--timeout SECONDS` waits longer",
        )


async def _create_named(session: LaptopSession, held: Held) -> None:
    for _ in range(NAME_TRIES - 1):
        try:
            await session.create(held)
        except AlreadyExistsError:
            del session.held[held.name]
            held.saved = replace(held.saved, name=_name(held.saved.target))
            session.adopt(held)
        else:
            return
    await session.create(held)


def _taken(target: Target, other: Intercept, owner: Session, mine: bool) -> ConflictError:
    ports = ", ".join(str(port.port) for port in other.ports)
    since = f" since {other.created.astimezone():%Y-%m-%d %H:%M}" if other.created is not None else ""
    who = owner.user or "somebody"
    ask = f"`tproxy leave {other.name}`"
    requests = f" for requests with {other.match}" if other.match is not None else ""
    force = f"`tproxy leave --force {other.name}` takes it, if you may"
    return ConflictError(
        f"{target} is already intercepted by {who} on {owner.host or 'an unknown host'}{since}:"
        f" {other.name} has port {ports} of {other.target}{requests}",
        f"leave it first: {ask}" if mine else f"ask {who} to run {ask}; {force}",
    )


def _check_datagrams(ports: Sequence[LaptopPort], request: InterceptRequest) -> None:
    """Raises InvalidError for what UDP does not have."""
    udp = [port.pod for port in ports if port.pod.protocol == "UDP"]
    if udp and request.asked.with_header("") is not None:
        raise InvalidError(
            f"port {udp[0]} cannot be intercepted personally: datagrams have no requests to choose from",
            "leave out the --http flags, or this port",
        )
    if udp and request.run:
        raise InvalidError(
            f"`tproxy run` gets no datagrams yet, and port {udp[0]} is UDP", "use `tproxy intercept` for this port"
        )
    if udp and request.proxy_protocol:
        raise InvalidError(f"--proxy-protocol is for TCP, and port {udp[0]} is UDP", "intercept the two separately")


def _name(target: Target) -> str:
    return f"{target.name[:58].rstrip('-.')}-{secrets.token_hex(2)}"


def _progress(verdict: Verdict) -> str:
    missing = verdict.missing[0]
    return f"{verdict.ready} of {len(verdict.pods)} pods are steered; {missing}"


def _pod_json(pod: PodView) -> Json:
    return {
        "name": pod.name,
        "node": pod.node,
        "state": pod.state.value,
        "reason": pod.reason,
        "message": pod.message,
        "connections": pod.connections,
        "staying": pod.staying,
    }


def _warnings(ports: Sequence[LaptopPort]) -> list[str]:
    wanted = sorted({(port.laptop, port.pod.protocol) for port in ports})
    silent = [(port, protocol) for port, protocol in wanted if not laptop_ports.listens(port, protocol)]
    return [
        f"nothing listens on port {InterceptPort(*one)} of this laptop: connections are refused until your app does"
        for one in silent
    ]


def _value(result: T | BaseException) -> T:
    if isinstance(result, BaseException):
        raise result
    return result
