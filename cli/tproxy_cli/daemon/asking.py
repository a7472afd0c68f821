"""Asks a node daemon something, and passes its answer on as it comes.

Whoever may create a Session in the node daemons' namespace asks with one of that moment and may know everything; all
others ask with the Session of the intercepts they have, and are told about these.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tproxy.errors import ClusterError, DeniedError, InvalidError, TproxyError
from tproxy.kube.errors import NotFoundError
from tproxy.kube.port import INTERCEPTS, PODS, SESSIONS
from tproxy.model.flow import NOWHERE, FlowKind, OpenRequest, ResetReason
from tproxy.model.intercept import Intercept
from tproxy.model.pod import Pod
from tproxy.model.session import SYSTEM_NAMESPACE
from tproxy.tasks import Tasks
from tproxy.tunnel.conn import Buffer, Conn
from tproxy.tunnel.endpoint import Endpoint
from tproxy_cli.daemon.cluster import LaptopCluster
from tproxy_cli.daemon.dial import NODE_DAEMON_LABELS, no_daemon
from tproxy_cli.daemon.objects import parse_intercepts
from tproxy_cli.daemon.requests import Where
from tproxy_cli.daemon.session import LaptopSession
from tproxy_cli.daemon.to_node import endpoint_of, session_in


@dataclass(frozen=True, eq=False, slots=True)
class AskRequest:
    """`tproxy node …`. Each is only equal to itself: it names who uses a session.

    Without `node` it is the node of the pod that the arguments name.
    """

    where: Where
    node: str
    question: str
    arguments: Mapping[str, Any]

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> "AskRequest":
        """Read a request's body."""
        node, question, arguments = body.get("node", ""), body.get("question"), body.get("arguments", {})
        if not (isinstance(node, str) and isinstance(question, str) and isinstance(arguments, dict)):
            raise InvalidError("the daemon does not understand the question", "`tproxy quit`, then run it again")
        return cls(Where.of(body), node, question, arguments)


async def ask(cluster: LaptopCluster, namespace: str, request: AskRequest, undoing: Tasks) -> AsyncIterator[Buffer]:
    """The answer's bytes as the node sends them. Raises TproxyError before the first, and where they end too early."""
    pod = str(request.arguments.get("pod") or "")
    node = request.node or await _node_of(cluster, pod)
    if node not in await cluster.node_daemons():
        raise no_daemon(node)
    if await cluster.api.may("create", SESSIONS, SYSTEM_NAMESPACE):
        session = await session_in(cluster, SYSTEM_NAMESPACE, await cluster.user())
    else:
        session = _own(cluster, pod.partition("/")[0] or namespace, node)
    session.keep_for(request, [node])
    try:
        session.prepare()
        await session.begin()
        endpoint = await endpoint_of(session, node)
        async for piece in _answer(endpoint, request):
            yield piece
    finally:
        await asyncio.shield(undoing.start(session.release(request), "release"))


async def nodes(cluster: LaptopCluster) -> list[dict[str, Any]]:
    """The node daemons, also those that don't run, by node. Raises TproxyError."""
    listed = await cluster.api.list(PODS, SYSTEM_NAMESPACE, labels=NODE_DAEMON_LABELS)
    try:
        intercepts: list[Intercept] | None = parse_intercepts(await cluster.api.list(INTERCEPTS))
    except DeniedError:
        intercepts = None  # most developers may see those of some namespaces only
    found = []
    for each in listed:
        pod = Pod.from_object(each)
        statuses = (each.get("status") or {}).get("containerStatuses") or [{}]
        started = (each.get("status") or {}).get("startTime")
        age = (datetime.now(UTC) - datetime.fromisoformat(started)).total_seconds() if started else None
        found.append(
            {
                "node": pod.node,
                "pod": pod.name,
                "ready": pod.ready,
                "restarts": statuses[0].get("restartCount", 0),
                "version": pod.labels.get("app.kubernetes.io/version"),
                "intercepts": None if intercepts is None else sum(pod.node in one.nodes for one in intercepts),
                "ageSeconds": age,
            }
        )
    return sorted(found, key=lambda one: str(one["node"]))


async def _node_of(cluster: LaptopCluster, named: str) -> str:
    """The node of the pod `NAMESPACE/NAME`. Raises TproxyError."""
    namespace, _, name = named.partition("/")
    if not namespace or not name or "/" in name:
        raise InvalidError(f"{named!r} is not NAMESPACE/NAME of a pod")
    try:
        pod = Pod.from_object(await cluster.api.get(PODS, name, namespace))
    except NotFoundError as error:
        hint = f"`kubectl get pods -n {namespace}` lists those there are"
        raise ClusterError(f"there is no pod {named}", hint) from error
    if not pod.node:
        raise ClusterError(f"pod {named} has no node yet", f"`kubectl describe pod -n {namespace} {name}` says why")
    return pod.node


def _own(cluster: LaptopCluster, namespace: str, node: str) -> LaptopSession:
    """The Session of the user's own intercepts."""
    session = cluster.sessions.get(namespace)
    if session is None or session.ended or node not in {view.node for view in session.tunnels.views()}:
        raise DeniedError(
            f'you have no intercept in namespace "{namespace}" on node {node}, and may not ask about others\'',
            "with an intercept there you may ask about it (`-n` chooses the namespace); for everything else ask an"
            " administrator for the chart's role tproxy-debugger (value `rbac.debuggers`)",
        )
    return session


async def _answer(endpoint: Endpoint, request: AskRequest) -> AsyncIterator[Buffer]:
    sink = _Heard()
    conn = endpoint.open(OpenRequest(FlowKind.ASK, NOWHERE, protocol=request.question), sink)
    sink.conn = conn
    try:
        conn.write(json.dumps(dict(request.arguments)).encode())
        conn.write_eof()
        while (piece := await sink.take()) is not None:
            if isinstance(piece, TproxyError):
                raise piece
            yield piece
    finally:
        conn.reset()


class _Heard:
    """The sink. The node is given credit for what has been taken only."""

    def __init__(self) -> None:
        self.conn: Conn | None = None
        self._news: asyncio.Queue[Buffer | TproxyError | None] = asyncio.Queue()

    async def take(self) -> Buffer | TproxyError | None:
        """The next piece; why there is none, or None at the end."""
        piece = await self._news.get()
        if piece is not None and not isinstance(piece, TproxyError) and self.conn is not None:
            self.conn.consumed(len(piece))
        return piece

    def conn_opened(self) -> None:
        """The node has heard."""

    def conn_data(self, data: Buffer) -> None:
        """A part of the answer."""
        self._news.put_nowait(data)

    def conn_eof(self) -> None:
        """That was all."""
        self._news.put_nowait(None)

    def conn_reset(self, reason: ResetReason, detail: str) -> None:
        """There is no answer, or no more of it."""
        said = detail or reason.value
        if reason is ResetReason.DENIED:
            error: TproxyError = DeniedError(said, "`tproxy version` says whether the node daemon is too old")
        else:
            error = ClusterError(f"the node daemon's answer broke off: {said}", "ask again; its log says more")
        self._news.put_nowait(error)

    def conn_pause(self) -> None:
        """Arguments are short."""

    def conn_resume(self) -> None:
        """Arguments are short."""
