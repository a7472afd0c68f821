"""One host-wide connection from the moment the root helper is there until it is closed."""

import asyncio
import ipaddress
import logging
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tproxy.dns.forward import LaptopResolvers
from tproxy.model.flow import Address, ResetReason
from tproxy.tasks import Tasks
from tproxy_cli.connect.layout import Network
from tproxy_cli.connect.resolved import SERVER
from tproxy_cli.daemon.hostwide import conflicts
from tproxy_cli.daemon.hostwide.answers import can_speak_as
from tproxy_cli.daemon.hostwide.catching import Answering, HostConnections, HostDatagrams, within
from tproxy_cli.daemon.hostwide.conflicts import Conflict
from tproxy_cli.daemon.hostwide.link import HelperLink
from tproxy_cli.daemon.hostwide.names import HostNames, domains, is_nobodys
from tproxy_cli.daemon.outbound.addresses import ClusterAddresses
from tproxy_cli.daemon.outbound.way import Way

log = logging.getLogger(__name__)

RESOLVERS_SECONDS = 2.0
"""How soon another network's resolvers are seen in resolv.conf."""

QUICK_SECONDS = 0.5
"""Within which resolvers answer that are well."""

CONFLICT_SECONDS = 30.0
STUBS = ("127.0.0.53", "127.0.0.54")
"""Where systemd-resolved answers programs, which needs not be caught when it asks us itself."""

ALONE = "the resolver at {}, on this laptop, lets nobody else answer at its port: names of the cluster's do not resolve"
ALONE_REMEDY = "use addresses, or `tproxy run`; or name a resolver of the network in /etc/resolv.conf"

MOST_REFUSALS = 10
"""Denied destinations that `status` shows."""

Json = dict[str, Any]


class Connection:
    """Serves what is caught. `also` is caught besides the cluster's addresses, `never` in no case."""

    def __init__(
        self,
        way: Way,
        addresses: ClusterAddresses,
        sock: socket.socket,
        also: Sequence[Network],
        never: Sequence[Network],
        on_gone: Callable[[str], None],
    ) -> None:
        self.way = way
        self.since = time.time()
        self.conflicts: list[Conflict] = []
        self._addresses = addresses
        self._also, self._never = tuple(also), tuple(never)
        self._caught = 0
        self._link = HelperLink(sock, on_gone)
        self._laptop = LaptopResolvers(make=self._link.socket)
        self._servers: frozenset[str] = frozenset()
        self._alone: frozenset[str] = frozenset()
        self.resolved = False
        self._names = Answering(lambda: self._servers, HostNames(way, self._laptop), HostNames(way, None))
        self._connections = HostConnections(way, self._names, self._link, self._failed)
        self._datagrams = HostDatagrams(way, self._names, self._link)
        self._refusals: deque[str] = deque(maxlen=MOST_REFUSALS)
        self._tasks = Tasks("connect")

    async def begin(self) -> None:
        """Have the helper install everything, and serve. Raises TproxyError."""
        made = await self._link.begin()
        self._connections.serve([one for name, one in made.items() if name.startswith("tcp")], made.get("queue"))
        self._datagrams.serve([one for name, one in made.items() if name.startswith("udp")])
        for network in excluding(self._also, [*self._never, *map(ipaddress.ip_network, self._addresses.never)]):
            self._link.change(str(network), True)
        self._addresses.listeners.append(self._changed)
        for address in self._addresses.all():
            self._changed(address, True)
        await self._route_names()
        await self._look_for_resolvers()
        self._tasks.start(self._follow_resolvers(), "resolvers")
        await self._look_for_conflicts()
        self._tasks.start(self._follow_conflicts(), "conflicts")

    def status(self) -> Json:
        """For people and programs."""
        return {
            "origin": self.way.origin,
            "node": self.way.node,
            "trouble": self.way.trouble,
            "since": self.since,
            "addresses": self._caught,
            "alsoProxy": [str(one) for one in self._also],
            "neverProxy": [str(one) for one in self._never],
            "resolvers": sorted(self._servers),
            "resolved": self.resolved,
            "connections": self._connections.count,
            "flows": self._datagrams.count,
            "conflicts": [
                *({"message": str(one), "remedy": one.remedy} for one in self.conflicts),
                *({"message": ALONE.format(one), "remedy": ALONE_REMEDY} for one in sorted(self._alone)),
            ],
            "refused": list(self._refusals),
        }

    async def close(self) -> None:
        """End everything, and wait until the helper has undone what is its own."""
        if self._changed in self._addresses.listeners:
            self._addresses.listeners.remove(self._changed)
        await self._tasks.close()
        await self._link.wait_undone()
        await asyncio.gather(self._connections.close(), self._datagrams.close(), self._names.close())
        await self._link.close()
        await self.way.close()

    def _changed(self, address: str, known: bool) -> None:
        if not within(address, self._never) and not within(address, self._also):
            self._caught += 1 if known else -1
            self._link.change(address, known)

    def _failed(self, destination: Address, reason: ResetReason, detail: str) -> None:
        log.info("connection to %s: %s %s", destination, reason.value, detail)
        if reason is ResetReason.DENIED and (text := f"{destination}: {detail}") not in self._refusals:
            self._refusals.append(text)

    async def _route_names(self) -> None:
        """Have systemd-resolved ask here, where there is one.

        `web.NAMESPACE` is to work too, unless NAMESPACE is a domain of the Internet's: nobody waits for long for a
        resolver to say so that may not answer at all.
        """
        namespace = self.way.origin.partition("/")[0]
        routed = domains(self.way, namespace)
        self.resolved = await self._link.route_names(routed)

        async def add() -> None:
            if await is_nobodys(namespace, self._laptop):
                await self._link.route_names([*routed, (namespace, True)])

        if self.resolved:
            await asyncio.wait([self._tasks.start(add(), "namespace")], timeout=QUICK_SECONDS)

    async def _follow_resolvers(self) -> None:
        while True:
            await asyncio.sleep(RESOLVERS_SECONDS)
            await self._look_for_resolvers()

    async def _look_for_resolvers(self) -> None:
        servers = frozenset(catchable(self._laptop.configuration.nameservers or ("127.0.0.1",)))
        if self.resolved:
            servers = servers - set(STUBS) | {SERVER}
        if servers == self._servers | self._alone:
            return
        alone = [one for one in servers if not await can_speak_as(one, self._link)]
        for one in alone:
            log.warning("the resolver at %s lets nobody answer in its place", one)
        self._alone = frozenset(alone)
        self._servers = servers - self._alone
        self._link.catch_dns(sorted(self._servers))

    async def _follow_conflicts(self) -> None:
        while True:
            await asyncio.sleep(CONFLICT_SECONDS)
            await self._look_for_conflicts()

    async def _look_for_conflicts(self) -> None:
        wanted = [one for one in self._addresses.all() if not within(one, self._never)]
        try:
            found = await asyncio.get_running_loop().run_in_executor(None, conflicts.find, wanted)
        except OSError as error:
            log.warning("cannot look at the laptop's routes: %s", error)
            return
        for one in found:
            if one not in self.conflicts:
                log.warning("%s", one)
        self.conflicts = found


def catchable(servers: Iterable[str]) -> list[str]:
    """Resolvers that can be answered for: a link-local one is on a link of its own."""
    return [one for one in servers if "%" not in one and not ipaddress.ip_address(one).is_link_local]


def excluding(networks: Iterable[Network], holes: Iterable[Network]) -> list[Network]:
    """`networks` without `holes`, as networks."""
    left = list(networks)
    for hole in holes:
        cut: list[Network] = []
        for network in left:
            if network.version != hole.version or not network.overlaps(hole):
                cut.append(network)
            elif hole.prefixlen > network.prefixlen:
                cut += network.address_exclude(hole)  # type: ignore[arg-type]
        left = cut
    return left
