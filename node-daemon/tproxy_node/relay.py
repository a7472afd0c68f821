"""Takes the connections that the kernel hands over and passes each on: to the laptop, or to the app.

    client ──► listener in the pod's namespace ──► tunnel ──► laptop      the port has a route and its session a stream
                                               └─► upstream ──► app       health checks, and everything else (fail open)

What one session, and all of them together, may hold is limited. A session over its limit is served by the app; when the
node is full the kernel is told to steer nothing until there is room again.
"""

import asyncio
import itertools
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from tproxy.model.flow import Address, FlowKind, OpenRequest, ResetReason
from tproxy.model.intercept import MAX_DRAIN_SECONDS
from tproxy.netns.handle import Netns
from tproxy.steer.port import Attachment, SteeredPort
from tproxy.tasks import Tasks
from tproxy.tunnel.endpoint import Endpoint
from tproxy_node.accepted import Accepted
from tproxy_node.apps import ToApp
from tproxy_node.counts import PortCounts, Verdicts, verdicts
from tproxy_node.desired import Route, Routes
from tproxy_node.ending import Take
from tproxy_node.farewell import Farewell
from tproxy_node.first_bytes import FirstBytes, Probe
from tproxy_node.flows import Flow, Flows
from tproxy_node.personal.ports import PersonalPorts
from tproxy_node.personal.tally import Tally
from tproxy_node.plan import PodRef
from tproxy_node.pool import Pool, Pools
from tproxy_node.probing import PodProbing, Probing, is_inside
from tproxy_node.tunnelled import Tunnelled
from tproxy_node.udp import UdpRelay

log = logging.getLogger(__name__)

BACKLOG = 65535
"""For listen(2), which the event loop repeats on a listening socket; the kernel lowers it to its own limit."""

HANDSHAKE_SECONDS = 5.0
"""What handshakes begun towards our listener get to finish after a detach."""

LEFT_SECONDS = MAX_DRAIN_SECONDS + 60.0
LEFT_LOOK_SECONDS = 0.1
"""How long, and how often, a pod that is no longer steered is looked at for connections that still need us."""

LOOK_SECONDS = 1.0
"""How often to look whether the apps still listen."""

ROOM_AGAIN = 0.9
"""Steering comes back when no more than this part of the total limit is in use."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Connections at a time."""

    per_session: int = 4000
    total: int = 16384


class Relay:
    """What the relays of all pods share: where streams are, how much is in use, what has happened so far.

    `pick` gives a session's stream. `opened` counts connections by where they went (`laptop`, or `app_` and why),
    `resets` those that did not end in order, `active` what there is at `laptop` and `app` now, `datagrams` those
    `received` from clients, `answered` and `dropped`.
    """

    def __init__(self, pick: Callable[[str], Endpoint | None], limits: Limits, probing: Probing | None = None) -> None:
        self.pick = pick
        self.limits = limits
        self.probing = probing or Probing()
        self.opened: Counter[str] = Counter()
        self.resets: Counter[str] = Counter()
        self.active: Counter[str] = Counter()
        self.by_session: Counter[str] = Counter()
        self.datagrams: Counter[str] = Counter()
        self.tally = Tally()
        self.flows = Flows()
        self.held = 0
        self.pods: set[PodRelay] = set()
        self.full = False
        self.tasks = Tasks("relay")
        self._past: Verdicts = Counter()
        self._idle = asyncio.Event()
        self._idle.set()

    def entered(self, place: str, session: str) -> None:
        """One more connection at `place`, of `session` if that is the laptop."""
        self.active[place] += 1
        self.by_session[session] += 1
        self._idle.clear()
        if not self.full and self.active.total() >= self.limits.total:
            self.full = True
            log.warning("full: new connections go to the apps directly", extra={"rate_key": "full"})
            self._apply()

    def left(self, place: str, session: str) -> None:
        """One less."""
        self.active[place] -= 1
        self.by_session[session] -= 1
        if not self.by_session[session]:
            del self.by_session[session]
        if not self.by_session:
            self._idle.set()
        if self.full and self.active.total() <= self.limits.total * ROOM_AGAIN:
            self.full = False
            self._apply()

    def taker(self, pod: PodRef, port: int) -> Take | None:
        """Who takes a connection to this port of a pod now; None if it would be the app's."""
        return next((one.take for one in self.pods if one.pod == pod and one.takes(one.routes.get(port))), None)

    def _apply(self) -> None:
        for pod in self.pods:
            pod.apply()

    def verdicts(self) -> Verdicts:
        """What the kernel did with new connections to intercepted ports since the start."""
        return self._past + verdicts(self.counts())

    def counts(self) -> Iterator[PortCounts]:
        """What has become of connections to each port of the pods that are steered now."""
        return itertools.chain.from_iterable(pod.counts() for pod in self.pods)

    def remember(self, verdicts: Verdicts) -> None:
        """Add what an attachment has counted that is about to end."""
        self._past.update(verdicts)

    async def look_for_apps(self) -> None:
        """Look for ever whether the apps of intercepted ports still listen."""
        while True:
            for pod in self.pods:
                pod.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def idle(self) -> None:
        """Wait until no connection is left."""
        await self._idle.wait()

    async def close(self) -> None:
        """Reset what is still connected."""
        for pod in list(self.pods):
            pod.abandon()
        await self.tasks.close()


class PodRelay:
    """The connections of one pod, from its attachment until the last one has ended."""

    def __init__(self, relay: Relay, pod: PodRef, attachment: Attachment, routes: Routes) -> None:
        """`routes` are TCP's."""
        self.pod = pod
        self.routes: Routes = dict(routes)
        self._relay = relay
        self._attachment = attachment
        self.pool: Pool | None = None
        self._probing: PodProbing | None = None
        self._steering = True
        self._servers: list[asyncio.Server] = []
        self._laptop: dict[tuple[int, str], set[Tunnelled]] = {}  # by port and intercept UID
        self._apps = ToApp(relay, pod, attachment)
        self.udp = UdpRelay(relay, pod, attachment)
        self._personal = PersonalPorts(relay, pod, attachment)
        self._personal.set_routes(self.routes)

    @property
    def shows_clients(self) -> bool:
        """Whether the app sees its clients on connections that come through here, rather than its own pod."""
        return self._attachment.shows_clients

    @property
    def listeners(self) -> Sequence[socket.socket]:
        """What new connections come to."""
        return self._attachment.listeners

    @property
    def hears_strays(self) -> bool:
        """Whether packets that belong to no connection come there, or to the app."""
        return self._attachment.hears_strays

    async def serve(self) -> None:
        """Accept on the attachment's listeners."""
        loop = asyncio.get_running_loop()
        for listener in self._attachment.listeners:
            # The event loop closes what it is given, and the attachment closes its own.
            server = await loop.create_server(lambda: Accepted(self), sock=listener.dup(), backlog=BACKLOG)
            self._servers.append(server)
        self._relay.pods.add(self)
        self.apply()

    def watch_probes(self, netns: Netns) -> None:
        """Learn who may be probing this pod, and see from now on whether its app listens. Raises OSError."""
        self._probing = PodProbing(self._relay.probing, netns, self._attachment)
        self.look()

    def watch_pool(self, pools: Pools, netns: Netns) -> Pool:
        """Deal with connections that the app has already. Raises OSError."""
        self.pool = Pool(pools, netns, self)
        self.pool.start()
        return self.pool

    def takes(self, route: Route | None) -> bool:
        """Whether there is room for one more connection that is routed like this, if it is."""
        relay = self._relay
        if route is None:
            return False
        if relay.full or not route.intercept:
            return not relay.full
        return relay.by_session[route.session] < relay.limits.per_session and relay.pick(route.session) is not None

    def adopt(self, sock: socket.socket) -> None:
        """Serve a connection like one that has just been accepted."""
        loop = asyncio.get_running_loop()
        self._relay.tasks.start(loop.connect_accepted_socket(lambda: Accepted(self, "existing"), sock), "adopt")

    def look(self) -> None:
        """See whether the app listens on the ports whose health checks are its own."""
        if self._probing is not None and self._steering:
            self._probing.look(frozenset(port for port, route in self.routes.items() if route.probes == "app"))

    def set_routes(self, routes: Routes) -> None:
        """Route like this from now on; connections that lose their intercept are drained."""
        self.routes = dict(routes)
        self._personal.set_routes(self.routes)
        self.look()
        self.apply()
        if self.pool is not None:
            self.pool.routes_changed()
        self._drain()

    def apply(self) -> None:
        """Tell the kernel which ports to steer."""
        if self._steering:
            self._attachment.set_ports(() if self._relay.full else map(SteeredPort, self.routes))
            self.udp.apply()

    def counts(self) -> Iterator[PortCounts]:
        """What has become of connections to this pod's ports since it was attached."""
        for port, counters in self._attachment.counters().items():
            yield PortCounts(self.pod, port, "TCP", counters, self._apps.joined(port))
        for port, counters in self.udp.counters().items():
            yield PortCounts(self.pod, port, "UDP", counters, {})

    async def finish(self) -> None:
        """After `stop`: accept what was under way, then close the listeners. Connections go on."""
        if not await self._attachment.drained(HANDSHAKE_SECONDS):
            log.warning("connections were not accepted in time", extra={"pod": str(self.pod)})
        # What was accepted last is on its way to `accepted`, which still needs the attachment.
        await asyncio.sleep(0)
        self._stop_listening()
        # So do connections to the laptop, while they may still come to the app.
        deadline = time.monotonic() + LEFT_SECONDS
        while self._laptop and time.monotonic() < deadline:  # noqa: ASYNC110 - none hurries
            await asyncio.sleep(LEFT_LOOK_SECONDS)
        self._close()

    def abandon(self) -> None:
        """The pod's network is gone, or we are: stop, and reset every connection."""
        self.stop()
        self.udp.close()
        self._close()
        for group in list(self._laptop.values()):
            for connection in list(group):
                connection.abort("the pod is gone")
        self._apps.abort()
        self._personal.abort()

    def stop(self) -> None:
        """Give the ports back at once. Idempotent."""
        if not self._steering:
            return
        self._steering = False
        self._attachment.stop()
        self._relay.remember(verdicts(self.counts()))
        self.udp.stop()
        self._relay.pods.discard(self)
        self.routes = {}
        if self.pool is not None:
            self.pool.close()
        self._personal.set_routes({})
        self._drain()

    def _stop_listening(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()

    def _close(self) -> None:
        self._stop_listening()
        if self._probing is not None:
            self._probing.close()
        self._attachment.close()

    def _drain(self) -> None:
        kept = {(port, route.intercept) for port, route in self.routes.items()}
        for key, group in self._laptop.items():
            if key not in kept:
                for connection in group:
                    connection.drain()

    def again(self, connection: Tunnelled, transport: asyncio.Transport, data: bytes) -> None:
        """Pass on anew what was with a laptop, of which the client expects nothing any more but for `data`."""
        connection.forget_client()
        self.tunnelled_lost(connection)
        (self._relay.taker(self.pod, connection.key[0]) or self.take)(transport, data)

    def take(self, transport: asyncio.Transport, data: bytes) -> None:
        """Pass on a connection like a new one on which `data` has been read already."""
        Accepted(self).connection_made(transport)
        if data and not transport.is_closing():
            cast(asyncio.Protocol, transport.get_protocol()).data_received(data)

    def accepted(self, transport: asyncio.Transport, why: str = "intercept") -> None:
        """Pass a new connection on."""
        name, peer = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
        if name is None or peer is None:
            transport.abort()  # its client has reset it already
            return
        destination, source = Address(name[0], name[1]), Address(peer[0], peer[1])
        route = self.routes.get(destination.port)
        if route is None:
            self._apps.join(transport, source, destination, "left")
        elif route.probes == "app" and self._from_node(source) and self._app_missing(destination):
            self._apps.join(transport, source, destination, "probe")
        elif route.personal:
            self._personal.accept(transport, source, destination)
        elif self._relay.by_session[route.session] >= self._relay.limits.per_session:
            self._apps.join(transport, source, destination, "limit")
        elif (stream := self._relay.pick(route.session)) is None:
            self._apps.join(transport, source, destination, "no_tunnel")
        else:
            flow = self._relay.flows.begin(self.pod, source, destination, "laptop", why, route, transport)
            self._to_laptop(transport, stream, route, flow)

    def _to_laptop(self, transport: asyncio.Transport, stream: Endpoint, route: Route, flow: Flow) -> None:
        source, destination = flow.client, flow.destination
        connection = Tunnelled(self, (destination.port, route.intercept), route.choice, route.drain_seconds)
        self._laptop.setdefault(connection.key, set()).add(connection)
        self._relay.entered("laptop", route.session)
        request = OpenRequest(FlowKind.INBOUND, destination, source, route.intercept, str(self.pod))
        conn = stream.open(request, connection)
        connection.join(conn)
        connection.flow, flow.conn, flow.stream = flow, conn, stream
        if route.probes == "laptop":
            self._relay.opened["laptop"] += 1
            transport.set_protocol(connection)
            connection.connection_made(transport)
            return

        def settled(probe: Probe | None) -> None:
            if probe is None:
                self._relay.opened["laptop"] += 1
                if first.greeted:
                    connection.unanswered = None
                return
            Farewell(conn)
            flow.moved()
            connection.forget_client()
            self.tunnelled_lost(connection)
            why = "left" if connection.leaving else "probe"
            self._apps.join(probe.transport, source, destination, why, probe.data, probe.greeting)

        checks = self._relay.probing.checks(
            self._from_node(source), is_inside(source.host, destination.host), lambda: connection.leaving
        )
        first = FirstBytes(connection, conn, checks, settled)
        transport.set_protocol(first)
        first.connection_made(transport)

    def may_probe(self, host: str) -> bool:
        """Whether a health check may come from this address."""
        return self._probing is not None and self._probing.from_node(host)

    def _from_node(self, source: Address) -> bool:
        return self._probing is not None and self._probing.from_node(source.host)

    def _app_missing(self, destination: Address) -> bool:
        return self._probing is not None and self._probing.app_missing(destination.port)

    def tunnelled_lost(self, connection: Tunnelled) -> None:
        """A connection to the laptop is over."""
        group = self._laptop[connection.key]
        group.discard(connection)
        if not group:
            del self._laptop[connection.key]
        self._relay.left("laptop", connection.session)

    def tunnelled_reset(self, reason: ResetReason) -> None:
        """The far end of a connection is gone."""
        self._relay.resets[reason.value] += 1
