"""The ports of one pod that have personal intercepts.

client ──► ClientHop ──► router of `tproxy.http` ──► app, or the laptop of a global intercept
                                                └──► laptops of personal intercepts
"""

import asyncio
import logging
import socket
from typing import TYPE_CHECKING

from tproxy.http.matcher import Rules
from tproxy.http.port import APP
from tproxy.model.flow import Address, FlowKind, OpenRequest
from tproxy.steer.port import Attachment
from tproxy_node.desired import Route, Routes
from tproxy_node.personal.ends import AppEnd
from tproxy_node.personal.hop import ClientHop
from tproxy_node.personal.laptops import Kind, LaptopEnd, LaptopPool
from tproxy_node.personal.tally import PortTally
from tproxy_node.plan import PodRef

if TYPE_CHECKING:
    from tproxy_node.relay import Relay

log = logging.getLogger(__name__)

MAX_HELD = 64 * 1024 * 1024
"""Bytes of requests that are not all there yet, of all connections of the node together. Beyond it, apps get them."""


class PersonalPorts:
    """Its connections, from their beginning to their end."""

    def __init__(self, relay: "Relay", pod: PodRef, attachment: Attachment) -> None:
        self._relay = relay
        self._pod = pod
        self._attachment = attachment
        self._routes: Routes = {}
        self._matchers: dict[int, Rules] = {}
        self._tallies: dict[int, PortTally] = {}
        self._hops: set[ClientHop] = set()
        self._apps: dict[AppEnd, asyncio.Task[None]] = {}
        self._laptops: set[LaptopEnd] = set()
        self._pool = LaptopPool()

    def route(self, port: int) -> Route | None:
        """As of now."""
        return self._routes.get(port)

    def matcher(self, port: int) -> Rules:
        """The rules of a port, as of now."""
        rules = self._matchers.get(port)
        if rules is None:
            route = self._routes.get(port, Route())
            checks = APP if route.intercept and route.probes == "app" else None
            self._matchers[port] = rules = Rules(route.personal, self._relay.probing.agents, checks)
        return rules

    def tally(self, port: int) -> PortTally:
        """What counts the requests of a port."""
        tally = self._tallies.get(port)
        if tally is None:
            tally = self._tallies[port] = PortTally(self._relay.tally)
        return tally

    def set_routes(self, routes: Routes) -> None:
        """Decide requests like this from now on; where nobody intercepts any more, nobody shall be in the way."""
        before, self._routes = self._routes, dict(routes)
        for port, route in routes.items():
            if route.personal:
                self.tally(port).set_intercepts(choice.intercept for _, choice in route.personal)
        for port in self._tallies.keys() - {port for port, route in routes.items() if route.personal}:
            self._tallies.pop(port).close()
        self._matchers.clear()
        for end in self._laptops:
            port = end.port
            if end.intercept not in routes.get(port, Route()).intercepts and not end.leaving:
                end.leave(before[port].drain_seconds if port in before else 0)
        for hop in list(self._hops):
            hop.matcher = self.matcher(hop.destination.port)
            if hop.destination.port not in routes:
                hop.router.drain()

    def accept(self, transport: asyncio.Transport, source: Address, destination: Address) -> None:
        """Take a new connection."""
        flow = self._relay.flows.begin(self._pod, source, destination, "by-request", "personal", None, transport)
        hop = ClientHop(self, transport, flow)
        self._hops.add(hop)
        self._relay.entered("app", "")
        self._relay.opened["personal"] += 1
        hop.start()

    def left(self, hop: ClientHop) -> None:
        """A client is gone."""
        self._hops.discard(hop)
        self._relay.left("app", "")

    def open_laptop(self, hop: ClientHop, session: str, intercept: str, pooled: bool) -> LaptopEnd | None:
        """A connection to a laptop, if there is a way to it, and room for one more."""
        relay = self._relay
        stream = relay.pick(session)
        if stream is None:
            return None
        kind = Kind(id(stream), intercept, hop.destination.port, hop.source.host) if pooled else None
        end = self._pool.take(kind) if kind is not None else None
        if end is None:
            if relay.by_session[session] >= relay.limits.per_session:
                return None
            relay.entered("laptop", session)
            end = LaptopEnd(intercept, hop.destination.port, kind, self._pool, self._laptop_ended)
            end.session = session
            self._laptops.add(end)
            end.use(hop)
            end.open(stream, OpenRequest(FlowKind.INBOUND, hop.destination, hop.source, intercept, str(self._pod)))
        else:
            end.use(hop)
        return end

    def _laptop_ended(self, end: LaptopEnd) -> None:
        self._laptops.discard(end)
        self._relay.left("laptop", end.session)

    def hold(self, change: int) -> bool:
        """All connections together hold back so many bytes more; false if that is too much."""
        self._relay.held += change
        return self._relay.held <= MAX_HELD

    def open_app(self, hop: ClientHop) -> AppEnd:
        """A connection to the app, at the address that the client meant."""
        app = AppEnd(hop)
        try:
            sock = self._attachment.upstream(hop.source, hop.destination)
        except OSError as error:
            asyncio.get_running_loop().call_soon(app.fail, error)
            return app
        self._apps[app] = self._relay.tasks.start(self._join(app, sock, hop.destination), "upstream")
        return app

    async def _join(self, app: AppEnd, sock: socket.socket, destination: Address) -> None:
        try:
            await app.connect(sock, (destination.host, destination.port))
        finally:
            self._attachment.release(sock)

    def app_ended(self, app: AppEnd) -> None:
        """It is over; perhaps it never stood."""
        if app.failed:
            self._relay.resets["app"] += 1
        task = self._apps.pop(app, None)
        if task is not None and not app.connected:
            task.cancel()

    def abort(self) -> None:
        """Reset everything."""
        for hop in list(self._hops):
            hop.client.reset()
            hop.router.client_lost()
        self._pool.close()
