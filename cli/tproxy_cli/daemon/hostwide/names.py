"""Names for every program of the laptop: the cluster's from the cluster, all others from the laptop's own resolvers."""

import logging

from tproxy.dns import alias, wire
from tproxy.dns.choice import Authority, Choice
from tproxy.dns.forward import LaptopResolvers
from tproxy.dns.server import DnsServer
from tproxy_cli.daemon.outbound.way import Way

log = logging.getLogger(__name__)


class HostNames:
    """Answers queries that were meant for the laptop's resolvers; `server` does so on TCP connections and messages."""

    def __init__(self, way: Way, laptop: LaptopResolvers) -> None:
        self.server = DnsServer(self._ask)
        self._way = way
        self._laptop = laptop

    async def close(self) -> None:
        """Stop."""
        await self.server.close()

    async def _ask(self, query: bytes, tcp: bool) -> bytes:
        asked = wire.question(query)
        if full := alias.expanded(asked.name, self._way.resolv_conf, self._way.has_service):
            answer = await self._way.query(wire.make_query(full, asked.kind, payload=4096))
            # A name that the cluster does not have after all may be the laptop's.
            if wire.rcode(answer) != wire.NXDOMAIN:
                return alias.renamed(query, answer)
        choice = Choice(self._way.resolv_conf, self._laptop.configuration.search, self._way.owns)
        match choice.of(asked):
            case Authority.NOBODY:
                return wire.answer_without_records(query, wire.NXDOMAIN)
            case Authority.CLUSTER:
                return await self._way.query(query)
            case Authority.LAPTOP:
                return await self._laptop.query(query, tcp)
