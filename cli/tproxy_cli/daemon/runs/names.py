"""A run's names: what its programs ask is asked of the cluster, or of the laptop's resolvers."""

import socket
from dataclasses import replace

from tproxy.capture.layout import IP4
from tproxy.dns import wire
from tproxy.dns.choice import Authority, Choice, inner_search
from tproxy.dns.forward import LaptopResolvers
from tproxy.dns.server import DnsServer
from tproxy.dns.wire import Question
from tproxy_cli.daemon.outbound.port import Outbound
from tproxy_cli.daemon.runs.places import Places


class Names:
    """Serves the resolver inside until `close`. With `as_pod`, what the laptop doesn't know is asked of the pod's."""

    def __init__(self, places: Places, as_pod: bool) -> None:
        self._outbound = places.outbound
        self._places = places
        self._as_pod = as_pod
        self._laptop = LaptopResolvers()
        self._server = DnsServer(self._ask)

    async def serve(self, datagrams: socket.socket, listener: socket.socket) -> None:
        """Begin; takes the sockets over."""
        await self._server.serve(datagrams, listener)

    async def close(self) -> None:
        """Stop."""
        await self._server.close()

    async def _ask(self, query: bytes, asked: Question, tcp: bool) -> bytes:
        choice = Choice(self._outbound.resolv_conf, self._laptop.configuration.search, self._places.in_cluster)
        match choice.of(asked):
            case Authority.NOBODY:
                return wire.answer_without_records(query, wire.NXDOMAIN)
            case Authority.CLUSTER:
                return await self._outbound.query(query)
            case Authority.LAPTOP:
                return await self._ask_laptop(query, tcp)

    async def _ask_laptop(self, query: bytes, tcp: bool) -> bytes:
        if not self._as_pod:
            return await self._laptop.query(query, tcp)
        try:
            answer = await self._laptop.query(query, tcp)
        except OSError:
            return await self._outbound.query(query)  # a laptop without a resolver, on a plane
        if wire.rcode(answer) != wire.NXDOMAIN:
            return answer
        pods = await self._outbound.query(query)
        return answer if wire.rcode(pods) != wire.NOERROR else pods


def resolv_conf(outbound: Outbound) -> str:
    """The text of the resolv.conf for programs inside."""
    pods = outbound.resolv_conf
    search = inner_search(pods.search, LaptopResolvers().configuration.search)
    return replace(pods, search=search).render((IP4.relay,))
