"""What is caught on the laptop itself: connections and datagrams to the cluster, and DNS to the laptop's resolvers."""

import asyncio
import ipaddress
import socket
from collections.abc import Callable

from tproxy.capture.layout import Mark
from tproxy.capture.queue import Asked
from tproxy.dns import wire
from tproxy.model.flow import Address
from tproxy.tasks import Tasks
from tproxy_cli.connect.layout import DNS_PORT, Network
from tproxy_cli.daemon.hostwide.link import HelperLink
from tproxy_cli.daemon.hostwide.names import HostNames
from tproxy_cli.daemon.outbound.port import Outbound
from tproxy_cli.daemon.runs.connections import Connections, Flow, OnFailure
from tproxy_cli.daemon.runs.datagrams import Datagrams, Far
from tproxy_cli.daemon.runs.datagrams import Flow as DatagramFlow
from tproxy_cli.daemon.runs.places import Places

DNS_SECONDS = 30.0


class Caught(Places):
    """Whatever is caught is the cluster's, but for what came to our own sockets."""

    def in_cluster(self, host: str) -> bool:
        """Whether a numeric address is to be dialled from the pod."""
        return not ipaddress.ip_address(host).is_loopback


IsResolver = Callable[[Address], bool]


class HostConnections(Connections):
    """TCP."""

    def __init__(
        self,
        outbound: Outbound,
        names: HostNames,
        is_resolver: IsResolver,
        link: HelperLink,
        on_failure: OnFailure,
    ) -> None:
        super().__init__(Caught(outbound), on_failure)
        self._link = link
        self._names = names
        self._is_resolver = is_resolver
        self._asking = Tasks("dns")

    def consider(self, asked: Asked) -> None:
        """Somebody asks to connect: DNS is answered here, so that is always possible."""
        if self._is_resolver(asked.destination):
            self.answer(asked.number, Mark.OPEN)
        else:
            super().consider(asked)

    def answer(self, number: int, mark: Mark | None) -> None:
        """Verdicts take root, so the helper gives them."""
        self._link.verdict(number, None if mark is None else mark.name.lower())

    def accepted(self, sock: socket.socket, flow: Flow) -> None:
        """DNS is answered here; who came to our port by its own address is nobody."""
        if self._is_resolver(flow[1]):
            self._asking.start(self._ask(sock), "connection")
        elif ipaddress.ip_address(flow[1].host).is_loopback:
            sock.close()
        else:
            super().accepted(sock, flow)

    async def _ask(self, sock: socket.socket) -> None:
        async with asyncio.timeout(DNS_SECONDS):
            await self._names.server.client(*await asyncio.open_connection(sock=sock))

    async def close(self) -> None:
        """Close the sockets and reset what is open."""
        await self._asking.close()
        await super().close()


class HostDatagrams(Datagrams):
    """UDP."""

    def __init__(self, outbound: Outbound, names: HostNames, is_resolver: IsResolver, link: HelperLink) -> None:
        super().__init__(Caught(outbound), link)
        self._names = names
        self._is_resolver = is_resolver
        self._asking = Tasks("dns")

    async def far(self, flow: DatagramFlow, destination: Address) -> Far:
        """The far side of a new flow. Raises OSError."""
        if self._is_resolver(destination):
            return _Answers(flow, self._names, self._asking)
        if ipaddress.ip_address(destination.host).is_loopback:
            raise OSError("sent to our own socket")
        return await super().far(flow, destination)

    async def close(self) -> None:
        """End all flows and close the sockets."""
        await self._asking.close()
        await super().close()


class _Answers:
    """The far side of datagrams to a resolver. A program asks from a new port each time, so its flow ends with it."""

    def __init__(self, flow: DatagramFlow, names: HostNames, tasks: Tasks) -> None:
        self._flow = flow
        self._names = names
        self._tasks = tasks
        self._under_way = 0

    def send(self, payload: bytes) -> bool:
        """A question."""
        if not wire.is_query(payload) or self._under_way >= 64:
            return False
        self._under_way += 1
        self._tasks.start(self._answer(payload), "query")
        return True

    async def _answer(self, query: bytes) -> None:
        answer = await self._names.server.answer(query, False)
        self._under_way -= 1
        if answer is not None:
            self._flow.datagram(wire.for_udp(query, answer))

    def close(self) -> None:
        """Nothing is held."""


def is_resolver_of(servers: Callable[[], frozenset[str]]) -> IsResolver:
    """Tells what is DNS to one of these servers."""
    return lambda destination: destination.port == DNS_PORT and destination.host in servers()


def within(address: str, networks: tuple[Network, ...]) -> bool:
    """Whether an address or network is inside one of `networks`."""
    one = ipaddress.ip_network(address)
    return any(one.version == other.version and one.subnet_of(other) for other in networks)  # type: ignore[arg-type]
