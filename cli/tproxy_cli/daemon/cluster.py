"""One cluster as one user sees it: the way in, who we are there, and our sessions by namespace."""

import asyncio
import getpass
import logging
import re
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tproxy.errors import DeniedError
from tproxy.kube.api import ApiCluster
from tproxy.kube.config import ClusterConfig
from tproxy.kube.port import INTERCEPTS, PODS, SESSIONS, Resource
from tproxy.kube.workloads import resolve
from tproxy.model.direct import Transport
from tproxy.model.pod import Pod
from tproxy.model.session import MIN_TTL_SECONDS, TOKEN_BYTES
from tproxy.model.workload import TargetQuery
from tproxy.tasks import Tasks
from tproxy.tunnel.endpoint import Endpoint
from tproxy.tunnel.hello import Hello
from tproxy.tunnel.mux import DEAD_SECONDS
from tproxy_cli import roles
from tproxy_cli.daemon.dial import SYSTEM_NAMESPACE, NodeDaemon, NodeDaemons, NodeLink, dial, dial_directly
from tproxy_cli.daemon.given.copies import FileCopies
from tproxy_cli.daemon.held import Held
from tproxy_cli.daemon.inbound import Connect, connect_laptop
from tproxy_cli.daemon.objects import SessionObjects
from tproxy_cli.daemon.outbound.addresses import ClusterAddresses
from tproxy_cli.daemon.session import LaptopSession
from tproxy_cli.daemon.state import SavedSession
from tproxy_cli.daemon.tunnels import Tunnels

log = logging.getLogger(__name__)

MAX_LOST = 50
"""How many intercepts that others deleted are remembered for `status`."""

CLOSE_SECONDS = 30.0
"""How long requests under way may take after the way into the cluster has changed."""

RIGHTS: Sequence[tuple[str, Resource]] = (
    ("create", SESSIONS),
    ("patch", SESSIONS),
    ("delete", SESSIONS),
    ("create", INTERCEPTS),
    ("patch", INTERCEPTS),
    ("delete", INTERCEPTS),
    ("watch", INTERCEPTS),
)


@dataclass(frozen=True, slots=True)
class Lost:
    """An intercept of ours that somebody else deleted."""

    session: SavedSession
    held: Held
    why: str
    at: datetime


class LaptopCluster:
    """A cluster for as long as the daemon runs. Sockets of port-forwards are made in `forwards`."""

    def __init__(
        self,
        kubeconfig: str | None,
        config: ClusterConfig,
        forwards: Path,
        on_save: Callable[[], None],
        connect: Connect = connect_laptop,
    ) -> None:
        self.kubeconfig = kubeconfig
        self.config = config
        self.api = ApiCluster(config)
        self.host = socket.gethostname()
        self.sessions: dict[str, LaptopSession] = {}
        self.copies: dict[str, FileCopies] = {}
        self.lost: list[Lost] = []
        self.transport: Transport = "port-forward"
        self._forwards = forwards
        self._on_save = on_save
        self._connect = connect
        self._daemons = NodeDaemons()
        self._user: str | None = None
        self._allowed: set[str] = set()
        self._tasks = Tasks("cluster")
        self.addresses = ClusterAddresses(self.api, config.server)
        self._fresh_since = time.monotonic()

    async def user(self) -> str:
        """Who we are to the cluster, or failing that on the laptop. Raises TproxyError."""
        if self._user is None:
            self._user = await self.api.whoami() or getpass.getuser()
        return self._user

    def take(self, transport: Transport) -> None:
        """Reach nodes this way from now on; tunnels that go another way are opened anew."""
        if transport == self.transport:
            return
        self.transport = transport
        self._allowed.clear()
        for session in self.live_sessions():
            session.tunnels.wake()
        self._on_save()

    async def node_daemons(self) -> Mapping[str, NodeDaemon]:
        """The node daemons that run, by node. Raises TproxyError."""
        return await self._daemons.by_node(self.api)

    async def check_access(self, namespace: str) -> None:
        """Check that the cluster has tproxy, and that we have the rights an intercept in `namespace` takes.

        Raises `ClusterError`, or `DeniedError` naming the first right that is missing.
        """
        if namespace in self._allowed:
            return
        await self.api.list(INTERCEPTS, namespace)
        needed = [(verb, resource, namespace, "") for verb, resource in RIGHTS]
        if self.transport == "port-forward":
            # A WebSocket is a GET. Clusters that want `create` as well say so when the tunnel is opened.
            needed.append(("get", PODS, SYSTEM_NAMESPACE, "portforward"))
        answers = await asyncio.gather(*(self.api.may(*right) for right in needed))
        for (verb, resource, place, subresource), allowed in zip(needed, answers, strict=True):
            if not allowed:
                role = roles.REACH_NODES if subresource else roles.DEVELOPER
                raise DeniedError(*roles.denied(verb, resource, place, role, subresource))
        self._allowed.add(namespace)

    def session(self, namespace: str, user: str) -> LaptopSession:
        """Our session in `namespace`; a new one, not in the cluster yet, if there is none."""
        session = self.sessions.get(namespace)
        if session is None or session.ended:
            session = self.restore(
                SavedSession(
                    kubeconfig=self.kubeconfig,
                    context=self.config.context,
                    namespace=namespace,
                    name=f"{_name_part(self.host)}-{secrets.token_hex(4)}",
                    uid="",
                    token=secrets.token_bytes(TOKEN_BYTES),
                    user=user,
                    ttl_seconds=MIN_TTL_SECONDS,
                    renewed_at=time.time(),
                    intercepts=(),
                )
            )
        return session

    def restore(self, saved: SavedSession) -> LaptopSession:
        """Our session as saved."""

        def lost(held: Held, why: str) -> None:
            self.lost = [*self.lost, Lost(session.saved, held, why, datetime.now().astimezone())][-MAX_LOST:]

        async def dial_node(node: str) -> NodeLink:
            hello = Hello(saved.namespace, saved.name, saved.token)
            if self.transport == "direct":
                link = await dial_directly(self.api, self._daemons, node, hello, session.inbound.on_open)
            else:
                link = await dial(self.api, self._daemons, node, hello, session.inbound.on_open, self._forwards)
            self._tasks.start(self._refresh_if_silent(link.endpoint), f"silence of {node}")
            return link

        async def pods_of(held: Held) -> Sequence[Pod]:
            target = held.saved.target
            return (await resolve(self.api, saved.namespace, TargetQuery(target.kind, target.name))).pods

        if (previous := self.copies.get(saved.namespace)) is not None:
            self._tasks.start(previous.close(), "end copies")
        session = LaptopSession(SessionObjects(self.api, saved, self.host), self._on_save, lost, self._connect)
        session.tunnels = Tunnels(dial_node, session.notify)
        self.sessions[saved.namespace] = session
        self.copies[saved.namespace] = FileCopies(session, lambda: self.api, pods_of)
        return session

    def resume(self, saved: SavedSession) -> None:
        """Take up what an earlier daemon left, in the background."""
        if (current := self.sessions.get(saved.namespace)) is not None and not current.ended:
            # The way to the cluster was gone for so long that a new one was begun.
            log.warning("not taken up beside a newer session", extra={"session": saved.name})
            return
        self.transport = saved.transport
        session = self.restore(saved)
        session.resuming = True
        self._tasks.start(session.resume(), f"resume {saved.namespace}")

    def live_sessions(self) -> list[LaptopSession]:
        """Those that have not ended."""
        return [session for session in self.sessions.values() if not session.ended]

    def forget_lost(self, which: Callable[[Lost], bool]) -> None:
        """Stop showing these lost intercepts."""
        self.lost = [one for one in self.lost if not which(one)]

    def use(self, config: ClusterConfig) -> None:
        """Go on with another configuration, or with fresh connections: those from before a sleep may be dead."""
        previous, self.config, self.api = self.api, config, ApiCluster(config)
        self._fresh_since = time.monotonic()
        self._user = None
        self._allowed.clear()
        self.addresses.use(self.api, config.server)
        for session in self.live_sessions():
            session.use(self.api)
        self._tasks.start(_close_later(previous), "close connections")

    async def _refresh_if_silent(self, endpoint: Endpoint) -> None:
        """A laptop whose tunnel falls silent may be in another network: nothing must wait for dead connections."""
        await endpoint.wait_closed()
        if endpoint.stats.quiet > DEAD_SECONDS and time.monotonic() - self._fresh_since > DEAD_SECONDS:
            log.info("a tunnel has fallen silent: fresh connections to the API server")
            self.use(self.config)

    def wake(self) -> None:
        """The laptop has slept."""
        self.use(self.config)
        for session in self.live_sessions():
            session.wake()

    async def close(self) -> None:
        """Close connections; sessions are left or suspended before."""
        await asyncio.gather(*(copies.close() for copies in self.copies.values()))
        await self._tasks.close()
        await self.addresses.close()
        await self.api.close()


async def _close_later(api: ApiCluster) -> None:
    """Close what may still be answering somebody."""
    try:
        await asyncio.sleep(CLOSE_SECONDS)
    finally:
        await api.close()


def _name_part(host: str) -> str:
    """`host` as the beginning of an object's name."""
    return re.sub(r"[^a-z0-9]+", "-", host.lower()).strip("-")[:40].strip("-") or "laptop"
