"""Serves what laptops dial: finds the pod to leave from, applies the policy, connects, joins.

    OPEN ──► limits ──► origin: a pod of the Session's own namespace ──► resolve ──► policy ──► connect ──► bridge

A name is resolved by the pod's resolvers, and what it resolves to is what the policy is applied to and what is
dialled: it is not looked up a second time.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from tproxy.model.dial_policy import DialPolicy, IPAddress, Where, plain
from tproxy.model.flow import Address, FlowKind, ResetReason
from tproxy.tasks import Tasks
from tproxy.tunnel.bridge import Bridge
from tproxy.tunnel.conn import Conn
from tproxy.tunnel.flow import UdpFlow
from tproxy_node.dial.connecting import connect, connect_udp
from tproxy_node.dial.datagrams import DnsFlow, Room, TextFlow
from tproxy_node.dial.failure import DialError, from_os
from tproxy_node.dial.origins import Origin, Origins
from tproxy_node.opening import Identity, Openings

log = logging.getLogger(__name__)

PROTOCOLS = ("tcp", "udp", "dns", "resolv.conf")


@dataclass(frozen=True, slots=True)
class DialLimits:
    """At a time. Connections include UDP flows; queries are those under way."""

    per_session: int = 2048
    total: int = 8192
    queries_per_session: int = 256


class Dialling:
    """What all dials share. `where` gives what the policy depends on, None while that is not known.

    `opened` counts by protocol and outcome: `ok`, or why not; `active` what there is now, by protocol.
    """

    def __init__(
        self, origins: Origins, policy: DialPolicy, where: Callable[[], Where | None], limits: DialLimits | None = None
    ) -> None:
        self.opened: Counter[tuple[str, str]] = Counter()
        self.active: Counter[str] = Counter()
        self._origins = origins
        self._policy = policy
        self._where = where
        self._limits = limits or DialLimits()
        self._by_session: Counter[str] = Counter()
        self._queries: dict[str, Room] = {}
        self._tasks = Tasks("dial")

    def serve_in(self, openings: Openings) -> None:
        """Serve what laptops open."""
        openings.add(FlowKind.DIAL, PROTOCOLS, self.serve)

    def serve(self, identity: Identity, conn: Conn) -> None:
        """A laptop dials."""
        protocol = conn.request.protocol
        if self._by_session[identity.uid] >= self._limits.per_session or self.active.total() >= self._limits.total:
            self.opened[protocol, ResetReason.LIMIT.value] += 1
            conn.reset(ResetReason.LIMIT, "too many connections are dialled at a time")
            return
        self.active[protocol] += 1
        self._by_session[identity.uid] += 1

        def over() -> None:
            self.active[protocol] -= 1
            self._by_session[identity.uid] -= 1
            if not self._by_session[identity.uid]:
                del self._by_session[identity.uid]
                self._queries.pop(identity.uid, None)

        match protocol:
            case "tcp":
                bridge = Bridge(conn)
                bridge.done.add_done_callback(lambda _: over())
                self._begin(conn, self._tcp(identity, conn, bridge), bridge.conn_reset, bridge.done)
            case "udp":
                udp = UdpFlow(conn, over)
                self._begin(conn, self._udp(identity, conn, udp), udp.fail)
            case "dns":
                room = self._queries.setdefault(identity.uid, Room(self._limits.queries_per_session))
                flow = DnsFlow(conn, over, self._tasks, room)
                self._begin(conn, self._dns(identity, conn, flow), flow.fail)
            case _:
                text = TextFlow(conn, over)
                self._begin(conn, self._resolv_conf(identity, conn, text), text.fail)

    def _begin(
        self,
        conn: Conn,
        work: Coroutine[Any, Any, None],
        fail: Callable[[ResetReason, str], None],
        gone: asyncio.Future[None] | None = None,
    ) -> None:
        """Do `work`. If that fails the laptop is told, and `fail` as well; it is given up when `gone` is done."""
        protocol = conn.request.protocol

        async def attempt() -> None:
            try:
                await work
            except DialError as error:
                self.opened[protocol, error.reason.value] += 1
                conn.reset(error.reason, str(error))
                fail(error.reason, str(error))
            except Exception:
                log.exception("cannot dial", extra={"rate_key": "dial"})
                self.opened[protocol, ResetReason.INTERNAL.value] += 1
                conn.reset(ResetReason.INTERNAL, "the node daemon failed")
                fail(ResetReason.INTERNAL, "")
            else:
                self.opened[protocol, "ok"] += 1

        dialling = self._tasks.start(attempt(), protocol)
        if gone is not None:
            gone.add_done_callback(lambda _: dialling.cancel())

    async def _tcp(self, identity: Identity, conn: Conn, bridge: Bridge) -> None:
        destination = conn.request.destination
        origin = await self._origin(identity, conn)
        addresses = await self._addresses(origin, destination)
        try:
            sock = await connect(origin, addresses, destination.port)
        except OSError as error:
            raise from_os(error, str(destination)) from error
        if bridge.done.done():  # the laptop gave up meanwhile
            sock.close()
            return
        _tie(origin, lambda: bridge.abort("the pod that it left from has gone"), bridge.done)
        await asyncio.get_running_loop().create_connection(lambda: bridge, sock=sock)

    async def _udp(self, identity: Identity, conn: Conn, flow: UdpFlow) -> None:
        destination = conn.request.destination
        origin = await self._origin(identity, conn)
        addresses = await self._addresses(origin, destination)
        try:
            sock = connect_udp(origin, addresses, destination.port)
        except OSError as error:
            raise from_os(error, str(destination)) from error
        _tie(origin, flow.gone, flow.ended)
        flow.start(sock)

    async def _dns(self, identity: Identity, conn: Conn, flow: DnsFlow) -> None:
        origin = await self._origin(identity, conn)
        _tie(origin, flow.gone, flow.ended)
        flow.start(origin.resolver)

    async def _resolv_conf(self, identity: Identity, conn: Conn, flow: TextFlow) -> None:
        origin = await self._origin(identity, conn)
        flow.start(f"# {origin.name}\n{origin.text}".encode())

    async def _origin(self, identity: Identity, conn: Conn) -> Origin:
        namespace, _, name = conn.request.pod.rpartition("/")
        if conn.request.pod and namespace != identity.namespace:
            detail = f'policy own-namespace: a session in namespace "{identity.namespace}" dials from its own pods only'
            raise DialError(ResetReason.DENIED, detail)
        return await self._origins.get(identity.namespace, name)

    async def _addresses(self, origin: Origin, destination: Address) -> list[IPAddress]:
        """What may be dialled of what `destination` means. Raises `DialError`."""
        where = self._where()
        if where is None:
            raise DialError(ResetReason.DENIED, "the node daemon does not know yet what must not be dialled; try again")
        if not destination.port:
            raise DialError(ResetReason.DENIED, "there is no port 0")
        numeric = plain(destination.host)
        found = [numeric] if numeric is not None else await origin.resolver.addresses(destination.host)
        denied = {one: self._policy.denies(one, destination.port, where, origin.resolvers) for one in found}
        if allowed := [one for one in found if not denied[one]]:
            return allowed
        what = destination.host if numeric is not None else f"{destination.host} ({found[0]})"
        raise DialError(ResetReason.DENIED, f"{what} is denied by policy {denied[found[0]]}")

    async def close(self) -> None:
        """Give up what is being dialled."""
        await self._tasks.close()
        self._origins.close()


def _tie(origin: Origin, end: Callable[[], None], over: asyncio.Future[None]) -> None:
    """Have `end` called when the pod has gone, unless it is over by then."""
    if not over.done():
        origin.flows.add(end)
        over.add_done_callback(lambda _: origin.flows.discard(end))
