"""`why`: gathers what decides where a new connection to a pod's port goes, and says what comes of it.

    {"step": {"name", "outcome", "text"}}*   then   {"verdict": {"goes", "text", "remedy"}}

Arguments: `pod` (namespace/name), `port`, `protocol`; `from`, an address; `headers`, each NAME=VALUE, `method` and
`path` of a request; `try` false to leave the local app alone, which else gets one connection that ends at once.
"""

import asyncio
import ipaddress
from collections.abc import Sequence
from dataclasses import asdict

from tproxy.errors import ClusterError, DeniedError, InvalidError
from tproxy.http.probe import asks_as_checker
from tproxy.model.flow import Address, FlowKind, OpenRequest, ResetReason
from tproxy.model.intercept import Intercept, InterceptPort, PodStatus
from tproxy.model.matching import Chooser
from tproxy.model.pod import Pod
from tproxy.netns.handle import Netns
from tproxy.steer.connections import ConnectionList
from tproxy.tunnel.conn import Buffer
from tproxy.tunnel.endpoint import Endpoint
from tproxy_node.debug.facts import Candidate, Facts, Tried, Tunnel
from tproxy_node.debug.questions import Question, Questions, Reply
from tproxy_node.debug.reasons import explain
from tproxy_node.debug.seen import Seen, look
from tproxy_node.debug.services import elsewhere, targets
from tproxy_node.debug.status import Here, own_cookies, steered_port
from tproxy_node.debug.subjects import Subjects
from tproxy_node.desired import Desired, Route
from tproxy_node.farewell import Farewell
from tproxy_node.reconcile import Steered

TRY_SECONDS = 3.0
"""What a local app gets to accept a connection."""

RECENT_SECONDS = 60.0
FAILED = ("refused", "timed-out", "unreachable", "limit", "internal")
MAX_HEADERS = 64

Headers = Sequence[tuple[bytes, bytes]]


class Why:
    """Answers it."""

    def __init__(self, here: Here, subjects: Subjects) -> None:
        self._here = here
        self._subjects = subjects

    def join(self, questions: Questions) -> None:
        """Answer from now on."""
        questions.add("why", self.answer)

    async def answer(self, question: Question, reply: Reply) -> None:
        """See `Answer`."""
        port = InterceptPort(question.number("port", 1, 65535, 0), question.text("protocol") or "TCP")
        if port.protocol not in ("TCP", "UDP"):
            raise InvalidError("protocol must be TCP or UDP")
        source = question.text("from")
        if source:
            source = _address(source)
        headers = _headers(question.texts("headers"))
        named = question.text("pod")
        if not question.who.everything and not self._owns(question.who.session, named):
            raise DeniedError(
                f"you have no intercept of {named} here, and may not ask about others'",
                "ask an administrator for the chart's role tproxy-debugger (value `rbac.debuggers`)",
            )
        pod = self._subjects.called(named)
        facts = await self._facts(pod, port, source, headers, question)
        steps, verdict = explain(facts)
        for step in steps:
            await reply.line({"step": asdict(step)})
        await reply.line({"verdict": asdict(verdict)})

    def _owns(self, session: str, named: str) -> bool:
        """Whether one of the session's intercepts has this pod."""
        mine = {one.uid for one in self._here.mirror.intercepts if one.session_uid == session}
        namespace, _, name = named.partition("/")
        statuses = self._here.reconciler.wanted().statuses
        spaces = {one.uid: one.namespace for one in self._here.mirror.intercepts}
        return any(
            uid in mine and spaces.get(uid) == namespace and any(pod.name == name for pod in status.pods)
            for uid, status in statuses.items()
        )

    async def _facts(self, pod: Pod, port: InterceptPort, source: str, headers: Headers, question: Question) -> Facts:
        here = self._here
        wanted = here.reconciler.wanted()
        steered = here.reconciler.pods.get(pod.uid)
        candidates = self._candidates(pod, wanted)
        seen, unsteered = await self._look(pod, steered)
        route = (steered.routes if steered is not None else {}).get(port) or wanted.routes.get(pod.uid, {}).get(port)
        matching = self._matching(route, headers, question, candidates)
        chosen = matching[0] if matching else None
        session = chosen.session if chosen is not None else ""
        stuck = next(
            (one for one in candidates.values() if one.reason == "NoTunnel" and steered_port(port) in one.ports), None
        )
        tunnel = self._tunnel(session or (stuck.session if stuck is not None else ""))
        tried = None
        if (
            chosen is not None
            and port.protocol == "TCP"
            and question.arguments.get("try", True)
            and not _silent(tunnel)
        ):
            tried = await self._try(chosen, _uid(candidates, chosen), pod, port)
        ended = self._failures(pod, port)
        relay = steered.relay if steered is not None else None
        services = list(targets(here.mirror.services, pod))
        return Facts(
            pod=f"{pod.namespace}/{pod.name}",
            node=here.options.node,
            port=steered_port(port),
            candidates=list(candidates.values()),
            seen=seen,
            unsteered=unsteered,
            cookies=own_cookies(steered) if steered is not None else frozenset(),
            full=here.relay.full,
            session_full=here.relay.by_session[session] >= here.relay.limits.per_session,
            personal=route is not None and bool(route.personal),
            asked=_described(headers, question),
            chosen=chosen,
            matching=matching,
            tunnel=tunnel,
            tried=tried,
            failures=len(ended),
            failure=ended[0] if ended else "",
            source=source,
            from_node=bool(source) and relay is not None and relay.may_probe(source),
            checker=asks_as_checker(headers, here.relay.probing.agents),
            probes=route.probes if route is not None else "app",
            older=self._older(steered, port, source),
            sends=[name for name, target in services if target == port.port],
            others=elsewhere(services, port.port),
        )

    async def _look(self, pod: Pod, steered: Steered | None) -> tuple[Seen | None, str]:
        """What there is in the pod's network, and why it is not steered although it should be."""
        failure = self._here.reconciler.failures.get(pod.uid)
        try:
            if steered is not None:
                return look(steered.place.netns), steered.broken
            place = await self._subjects.one(f"{pod.namespace}/{pod.name}")
        except (ClusterError, OSError) as error:
            return None, failure.message if failure is not None else str(error)
        try:
            return look(place.netns), failure.message if failure is not None else "it is not steered yet"
        except OSError as error:
            return None, str(error)
        finally:
            place.netns.close()

    def _candidates(self, pod: Pod, wanted: Desired) -> dict[str, Candidate]:
        """Intercepts that mean this pod, by UID."""
        found = {}
        for intercept in self._here.mirror.intercepts:
            status = wanted.statuses.get(intercept.uid)
            mine = next((one for one in status.pods if one.uid == pod.uid), None) if status is not None else None
            if mine is not None:
                found[intercept.uid] = self._candidate(intercept, mine)
        return found

    def _candidate(self, intercept: Intercept, status: PodStatus) -> Candidate:
        session = self._here.sessions.of(intercept.session_uid)
        whose = session.user or "somebody" if session is not None else "somebody gone"
        return Candidate(
            name=f"{intercept.namespace}/{intercept.name}",
            whose=f"{whose}@{session.host}" if session is not None and session.host else whose,
            session=intercept.session_uid,
            ports=tuple(steered_port(port) for port in intercept.ports),
            match=str(intercept.match) if intercept.match is not None else "",
            state=status.state.value,
            reason=status.reason,
            trouble=status.message if status.state.value != "Ready" else "",
        )

    def _matching(
        self, route: Route | None, headers: Headers, question: Question, candidates: dict[str, Candidate]
    ) -> list[Candidate]:
        """Those that get such a request, first those that are asked first."""
        if route is None:
            return []
        method = (question.text("method") or "GET").encode()
        path = (question.text("path") or "/").encode()
        agents = self._here.relay.probing.agents
        checker = asks_as_checker(headers, agents)
        found = [
            choice.intercept
            for match, choice in route.personal
            if Chooser([(match, True)]).choose(method, path, headers) and (choice.checks or not checker)
        ]
        found += [route.intercept] if route.intercept else []
        return [candidates[uid] for uid in found if uid in candidates]

    def _tunnel(self, session: str) -> Tunnel | None:
        if not session:
            return None
        stream = self._here.sessions.pick(session)
        lost = self._here.sessions.lost(session)
        if stream is None:
            if lost is None:
                return Tunnel(0)
            ago = asyncio.get_running_loop().time() - lost.at
            return Tunnel(0, lost=lost.reason, lost_ago=ago)
        stats = stream.stats
        waiting = stream.credits.waiting
        return Tunnel(1, stats.quiet, stats.oldest, stats.queued, stats.rtt, waiting)

    async def _try(self, chosen: Candidate, uid: str, pod: Pod, port: InterceptPort) -> Tried | None:
        stream = self._here.sessions.pick(chosen.session)
        if stream is None:
            return None
        host = pod.addresses[0]
        request = OpenRequest(
            FlowKind.INBOUND, Address(host, port.port), Address(host, 1), uid, f"{pod.namespace}/{pod.name}"
        )
        return await try_local_app(stream, request)

    def _failures(self, pod: Pod, port: InterceptPort) -> list[str]:
        """How connections of the last minute failed, the latest first."""
        now = asyncio.get_running_loop().time()
        ended = self._here.relay.flows.latest(pod.uid, port.port)
        return [flow.end for flow in ended if now - flow.ended < RECENT_SECONDS and flow.end.startswith(FAILED)]

    def _older(self, steered: Steered | None, port: InterceptPort, source: str) -> int:
        """Connections that the app has had since before; those of `source` only, if it is given."""
        if steered is None or port.protocol != "TCP" or steered.relay.pool is None:
            return 0
        staying = steered.relay.pool.staying.get(port.port)
        if staying is None:
            return 0
        if not source:
            return staying.count
        live = self._here.relay.flows.live
        ours = sum(
            flow.pod.uid == steered.relay.pod.uid and flow.destination.port == port.port
            for flow in live
            if flow.client.host == source
        )
        return max(0, _connections(steered.place.netns, port.port, source) - ours)


async def try_local_app(stream: Endpoint, request: OpenRequest) -> Tried:
    """Open a connection to a local app and end it at once."""
    heard = _Heard()
    conn = stream.open(request, heard)
    try:
        async with asyncio.timeout(TRY_SECONDS):
            tried = await heard.outcome
    except TimeoutError:
        conn.reset(ResetReason.RESET, "it was only asked whether the app is there")
        return Tried("timed-out", f"no answer within {TRY_SECONDS:g} s")
    if not conn.closed:
        Farewell(conn)  # in order: servers complain about resets
    return tried


class _Heard:
    """The sink of a connection that shall only stand."""

    def __init__(self) -> None:
        self.outcome: asyncio.Future[Tried] = asyncio.get_running_loop().create_future()

    def _set(self, tried: Tried) -> None:
        if not self.outcome.done():
            self.outcome.set_result(tried)

    def conn_opened(self) -> None:
        """It stands."""
        self._set(Tried("accepted"))

    def conn_data(self, data: Buffer) -> None:
        """Nobody reads that."""

    def conn_eof(self) -> None:
        """It stood."""
        self._set(Tried("accepted"))

    def conn_reset(self, reason: ResetReason, detail: str) -> None:
        """It does not."""
        self._set(Tried(reason.value, detail))

    def conn_pause(self) -> None:
        """Nothing is written."""

    def conn_resume(self) -> None:
        """Nothing is written."""


def _silent(tunnel: Tunnel | None) -> bool:
    return tunnel is not None and tunnel.quiet > TRY_SECONDS


def _uid(candidates: dict[str, Candidate], chosen: Candidate) -> str:
    return next(uid for uid, one in candidates.items() if one is chosen)


def _connections(netns: Netns, port: int, source: str) -> int:
    """Established ones of `source` to a port of the pod, the app's and the relay's."""
    connections = ConnectionList(netns)
    packed = ipaddress.ip_address(source).packed
    # As the kernel has it, by the family of the socket: IPv4 in an IPv6 socket is mapped.
    peers = {(bytes(10) + b"\xff\xff" + packed)[-16:], packed.ljust(16, b"\0")}
    try:
        return sum(one.addresses[1] in peers for one in connections.of(port))
    except OSError:
        return 0
    finally:
        connections.close()


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise InvalidError(f"{text!r} is no IP address", "`kubectl get pod -o wide` shows pods' addresses") from None


def _headers(texts: Sequence[str]) -> Headers:
    if len(texts) > MAX_HEADERS:
        raise InvalidError(f"more than {MAX_HEADERS} headers")
    found = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise InvalidError(f"{text!r} is not NAME=VALUE")
        found.append((name.strip().lower().encode(), value.encode()))
    return found


def _described(headers: Headers, question: Question) -> str:
    """What was asked about, for people."""
    line = f"{question.text('method') or 'GET'} {question.text('path') or '/'}"
    named = ", ".join(f"{name.decode()}={value.decode()}" for name, value in headers)
    return f"{line} with {named}" if named else f"{line} without such headers"
