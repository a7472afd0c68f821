"""Names for every program of the laptop: the cluster's from the cluster, all others from the laptop's own resolvers."""

from tproxy.dns import alias, wire
from tproxy.dns.choice import Authority, Choice
from tproxy.dns.forward import LaptopResolvers
from tproxy.dns.server import DnsServer
from tproxy.dns.wire import Question
from tproxy_cli.daemon.outbound.way import Way

SOA = 6


class HostNames:
    """Answers queries that were meant for the laptop's resolvers; `server` does so on TCP connections and messages.

    Without `laptop` what is not the cluster's does not exist: systemd-resolved asks others for that, and asked again it
    would come back here.
    """

    def __init__(self, way: Way, laptop: LaptopResolvers | None) -> None:
        self.server = DnsServer(self._ask)
        self._way = way
        self._laptop = laptop

    async def close(self) -> None:
        """Stop."""
        await self.server.close()

    async def _ask(self, query: bytes, asked: Question, tcp: bool) -> bytes:
        if full := alias.expanded(asked.name, self._way.resolv_conf, self._way.has_service):
            answer = await self._way.query(wire.make_query(full, asked.kind, payload=4096))
            # A name that the cluster does not have after all may be the laptop's.
            if wire.rcode(answer) != wire.NXDOMAIN:
                return alias.renamed(query, answer)
        search = self._laptop.configuration.search if self._laptop is not None else ()
        choice = Choice(self._way.resolv_conf, search, self._way.owns)
        match choice.of(asked):
            case Authority.CLUSTER:
                return await self._way.query(query)
            case Authority.LAPTOP if self._laptop is not None:
                return await self._laptop.query(query, tcp)
        return wire.answer_without_records(query, wire.NXDOMAIN)


def domains(way: Way, namespace: str) -> list[tuple[str, bool]]:
    """What systemd-resolved is to ask here for, and whether that is only to be routed, not searched."""
    search = [(domain, False) for domain in way.resolv_conf.search if domain.startswith(f"{namespace}.svc.")]
    return [*search, (way.resolv_conf.cluster_domain, True), ("svc", True)]


async def is_nobodys(domain: str, laptop: LaptopResolvers) -> bool:
    """Whether there is no such domain outside of the cluster. Who cannot be asked has none that would be missed."""
    try:
        answer = await laptop.query(wire.make_query(domain, SOA), False)
    except (OSError, wire.MalformedError):
        return False
    return wire.rcode(answer) == wire.NXDOMAIN
