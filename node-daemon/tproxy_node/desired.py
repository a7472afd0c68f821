"""What the node's pods should look like: which ports go to which intercept, and what to tell each intercept's owner.

Pure: everything known comes in as a `View`, the answer is a value.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tproxy.http.port import Choice
from tproxy.model.conflict import Claim, decide
from tproxy.model.intercept import (
    DRAIN_SECONDS,
    Existing,
    Intercept,
    InterceptPort,
    NodeState,
    NodeStatus,
    OnDisconnect,
    PodStatus,
    Probes,
)
from tproxy.model.match import Match
from tproxy.model.pod import Pod, Service
from tproxy.model.protocol import not_http
from tproxy.model.session import SYSTEM_NAMESPACE, Session
from tproxy.model.workload import matches
from tproxy.netns.refusal import refusal

_SEVERITY = (NodeState.READY, NodeState.PENDING, NodeState.CONFLICTED, NodeState.REFUSED)


@dataclass(frozen=True, slots=True)
class Route:
    """Where connections to one port of a pod go, and health checks.

    `intercept` and `session` are UIDs, `name` is for people; all are empty for the app. `speaks` is what the port is
    known to speak if that is not HTTP/1, else empty. With `personal` intercepts each request is offered to these first,
    in order. `host` is the laptop's own name, for people.
    """

    intercept: str = ""
    session: str = ""
    name: str = ""
    probes: Probes = "app"
    existing: Existing = "idle"
    drain_seconds: int = DRAIN_SECONDS
    speaks: str = ""
    personal: tuple[tuple[Match, Choice], ...] = ()
    host: str = ""
    on_disconnect: OnDisconnect = "fallback"

    def __str__(self) -> str:
        names = [choice.name for _, choice in self.personal]
        return "+".join([*names, self.name] if self.name else names)

    @property
    def choice(self) -> Choice:
        """The laptop that has whatever is no personal intercept's."""
        return Choice(self.intercept, self.session, self.name, self.host, self.on_disconnect)

    @property
    def intercepts(self) -> frozenset[str]:
        """The UIDs of all."""
        personal = {choice.intercept for _, choice in self.personal}
        return frozenset(personal | {self.intercept} if self.intercept else personal)

    @property
    def sessions(self) -> frozenset[str]:
        """The UIDs of those whom the port is steered for."""
        return frozenset({self.session, *(choice.session for _, choice in self.personal)} - {""})


Routes = Mapping[int, Route]
"""By port of the pod, of one protocol."""

PodRoutes = Mapping[InterceptPort, Route]
"""All of a pod."""


def of_protocol(routes: PodRoutes, protocol: str) -> Routes:
    """Those of `TCP` or `UDP`."""
    return {port.port: route for port, route in routes.items() if port.protocol == protocol}


@dataclass(frozen=True, slots=True)
class Staying:
    """Connections of one port that are still with the app, from before it was intercepted; `why` is for people."""

    count: int
    why: str


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a pod could not be steered at the last attempt; the next one is not due yet."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class View:
    """What the daemon knows.

    `pods` are those of this node, `chains` their owners by pod UID (kind and name, nearest first), `live` the UIDs of
    Sessions with a stream. By pod UID: `steered` the routes in force, `failures` the pods to leave alone for now, and
    `staying`, by port too, what is still with the app.
    """

    pods: Sequence[Pod] = ()
    chains: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)
    services: Sequence[Service] = ()
    sessions: Sequence[Session] = ()
    intercepts: Sequence[Intercept] = ()
    live: frozenset[str] = frozenset()
    steered: Mapping[str, PodRoutes] = field(default_factory=dict)
    failures: Mapping[str, Failure] = field(default_factory=dict)
    staying: Mapping[str, Mapping[int, Staying]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Desired:
    """`routes` by pod UID, for pods that should be steered; `statuses` by intercept UID, for those with pods here."""

    routes: Mapping[str, PodRoutes]
    statuses: Mapping[str, NodeStatus]


def desire(view: View) -> Desired:
    """Settle every pod of the node. Statuses say Ready only of what is in force already."""
    sessions = {session.uid: session for session in view.sessions}
    intercepts = [intercept for intercept in view.intercepts if not intercept.deleting]
    routes: dict[str, PodRoutes] = {}
    reports: dict[str, list[PodStatus]] = {}
    for pod in view.pods:
        if pod.phase in ("Succeeded", "Failed") or (pod.deleting and pod.uid not in view.steered):
            continue  # such a pod gets no connections any more
        wanting = [intercept for intercept in intercepts if _targets(intercept, pod, view)]
        claims: list[Claim] = []
        for intercept in wanting:
            session = sessions.get(intercept.session_uid)
            obstacle = _obstacle(intercept, pod, session)
            if obstacle is not None:
                reports.setdefault(intercept.uid, []).append(_report(pod, *obstacle))
            elif session is not None:
                claims.append(_claim(intercept, session, pod, view))
        pod_routes, verdicts = _settle(claims, pod, view)
        if pod_routes:
            routes[pod.uid] = pod_routes
        for uid, verdict in verdicts.items():
            reports.setdefault(uid, []).append(verdict)
    return Desired(routes, {uid: _summary(pods) for uid, pods in reports.items()})


def _targets(intercept: Intercept, pod: Pod, view: View) -> bool:
    return intercept.namespace == pod.namespace and matches(
        intercept.target, pod, view.chains.get(pod.uid, ()), view.services
    )


def _obstacle(intercept: Intercept, pod: Pod, session: Session | None) -> tuple[NodeState, str, str] | None:
    """Why this pod cannot be steered for this intercept whatever happens, or not yet; None if it can."""
    for port in intercept.ports:
        if port.protocol not in ("TCP", "UDP"):
            message = f"port {port.port}/{port.protocol}: this node daemon intercepts TCP and UDP only"
            return NodeState.REFUSED, "ProtocolUnsupported", message
        if port.protocol == "UDP" and intercept.match is not None:
            message = f"port {port.port}/UDP: there are no requests in datagrams to choose from, only all of them"
            return NodeState.REFUSED, "MatchUnsupported", message
    if intercept.namespace == SYSTEM_NAMESPACE:
        message = f"namespace {SYSTEM_NAMESPACE} is the node daemons' own, nothing there is intercepted"
        return NodeState.REFUSED, "SystemNamespace", message
    unreachable = refusal(pod.host_network, pod.runtime_class)
    if unreachable is not None:
        return NodeState.REFUSED, unreachable.reason, unreachable.message
    if session is None:
        return NodeState.PENDING, "NoSession", "the Session that this intercept belongs to does not exist"
    if pod.phase != "Running" or not pod.addresses:
        return NodeState.PENDING, "PodNotRunning", "the pod has not started yet"
    return None


def _claim(intercept: Intercept, session: Session, pod: Pod, view: View) -> Claim:
    steered = view.steered.get(pod.uid, {})
    return Claim(
        intercept=intercept,
        session=session,
        live=session.uid in view.live,
        holding=any(intercept.uid in route.intercepts for route in steered.values()),
    )


def _settle(claims: Sequence[Claim], pod: Pod, view: View) -> tuple[PodRoutes, dict[str, PodStatus]]:
    """The pod's routes, and a verdict per intercept. An intercept gets all of its ports or none."""
    decision = decide(claims)
    routes: dict[InterceptPort, Route] = {}
    for port, winners in decision.winners.items():
        live = [claim for claim in winners if claim.live]
        if live:
            routes[port] = _route(live, not_http(pod, view.services, port.port))
    verdicts: dict[str, PodStatus] = {}
    for claim in claims:
        uid = claim.intercept.uid
        lost = decision.losers.get(uid)
        if lost is not None:
            port, winner = min(lost.items(), key=lambda item: item[0])
            # Behind an owner who is away too, nothing is decided yet: whoever connects first gets the port.
            if claim.live or winner.live:
                verdicts[uid] = _report(pod, NodeState.CONFLICTED, "PortTaken", _conflict(port, winner))
                continue
        if not claim.live:
            message = "no tunnel from the laptop to this node"
            verdicts[uid] = _report(pod, NodeState.PENDING, "NoTunnel", message)
            continue
        verdicts[uid] = _progress(claim.intercept, routes, pod, view)
    return routes, verdicts


def _route(claims: Sequence[Claim], speaks: str) -> Route:
    """One port's, for its live claims in order."""
    personal: list[tuple[Match, Choice]] = []
    for claim in claims:
        intercept = claim.intercept
        name = f"{intercept.namespace}/{intercept.name}"
        if intercept.match is None:
            return Route(
                intercept.uid,
                claim.session.uid,
                name,
                intercept.probes,
                intercept.existing,
                intercept.drain_seconds,
                speaks,
                tuple(personal),
                claim.session.host,
                intercept.on_disconnect,
            )
        choice = Choice(
            intercept.uid,
            claim.session.uid,
            name,
            claim.session.host,
            intercept.on_disconnect,
            intercept.on_refused == "fallback",
            intercept.probes == "laptop",
        )
        personal.append((intercept.match, choice))
    # Connections carry others' requests, too: they may come over, and are never cut for one person's sake.
    keep = all(claim.intercept.existing == "keep" for claim in claims)
    drain_seconds = max(claim.intercept.drain_seconds for claim in claims)
    return Route(
        existing="keep" if keep else "idle", drain_seconds=drain_seconds, speaks=speaks, personal=tuple(personal)
    )


def _conflict(port: InterceptPort, winner: Claim) -> str:
    owner = winner.session.user or "somebody"
    if winner.session.host:
        owner += f" on {winner.session.host}"
    created = winner.intercept.created
    since = f" since {created.isoformat(timespec='seconds')}" if created is not None else ""
    return f"port {port} is intercepted by {winner.intercept.name} of {owner}{since}"


def _progress(intercept: Intercept, routes: PodRoutes, pod: Pod, view: View) -> PodStatus:
    steered = view.steered.get(pod.uid, {})
    if all(_in_force(intercept, routes[port], steered.get(port)) for port in intercept.ports):
        staying = view.staying.get(pod.uid, {})
        left = [staying[port.port] for port in intercept.ports if port.protocol == "TCP" and port.port in staying]
        why = "; ".join(dict.fromkeys(one.why for one in left))
        return PodStatus(pod.name, pod.uid, NodeState.READY, connections=sum(one.count for one in left), staying=why)
    failure = view.failures.get(pod.uid)
    if failure is not None:
        return _report(pod, NodeState.PENDING, failure.reason, failure.message)
    return _report(pod, NodeState.PENDING, "Attaching", "steering is being set up")


def _in_force(intercept: Intercept, wanted: Route, steered: Route | None) -> bool:
    """Whether a port does already what it should for `intercept`; the other ones there don't matter."""
    if steered is None:
        return False
    if intercept.match is None:
        return (wanted.intercept, wanted.probes) == (steered.intercept, steered.probes)
    return [one for one in wanted.personal if one[1].intercept == intercept.uid] == [
        one for one in steered.personal if one[1].intercept == intercept.uid
    ]


def _report(pod: Pod, state: NodeState, reason: str = "", message: str = "") -> PodStatus:
    return PodStatus(pod.name, pod.uid, state, reason, message)


def _summary(pods: Sequence[PodStatus]) -> NodeStatus:
    """The node's entry: as bad as its worst pod, whose reason it repeats."""
    ordered = tuple(sorted(pods, key=lambda pod: (pod.name, pod.uid)))
    worst = max(ordered, key=lambda pod: _SEVERITY.index(pod.state))
    return NodeStatus(worst.state, worst.reason, worst.message, ordered)
