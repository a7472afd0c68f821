"""What is caught on the laptop itself: connections and datagrams to the cluster, and DNS to the laptop's resolvers."""

import asyncio
import ipaddress
import socket
from collections.abc import Callable

from tproxy.capture.layout import Mark
from tproxy.capture.queue import Asked
from tproxy.model.flow import Address
from tproxy.tasks import Tasks
from tproxy_cli.connect.layout import DNS_PORT, Network
from tproxy_cli.connect.resolved import SERVER
from tproxy_cli.daemon.hostwide.answers import Answers
from tproxy_cli.daemon.hostwide.link import HelperLink
from tproxy_cli.daemon.hostwide.names import HostNames
from tproxy_cli.daemon.outbound.port import Outbound
from tproxy_cli.daemon.runs.connections import Connections, Flow, OnFailure
from tproxy_cli.daemon.runs.datagrams import Datagrams, Key
from tproxy_cli.daemon.runs.places import Places

DNS_SECONDS = 30.0


class Caught(Places):
    """Whatever is caught is the cluster's, but for what came to our own sockets."""

    def in_cluster(self, host: str) -> bool:
        """Whether a numeric address is to be dialled from the pod."""
        return not is_loopback(host)


class Answering:
    """Who answers DNS to an address: `all_names` for the laptop's resolvers, which `servers` are, `clusters` for that
    which systemd-resolved has of us."""

    def __init__(self, servers: Callable[[], frozenset[str]], all_names: HostNames, clusters: HostNames) -> None:
        self._servers = servers
        self._all = all_names
        self._clusters = clusters

    def at(self, destination: Address) -> HostNames | None:
        """None where it is no DNS that we answer."""
        if destination.port != DNS_PORT:
            return None
        if destination.host == SERVER:
            return self._clusters
        return self._all if destination.host in self._servers() else None

    async def close(self) -> None:
        """Stop."""
        await self._all.close()
        await self._clusters.close()


class HostConnections(Connections):
    """TCP."""

    def __init__(
        self,
        outbound: Outbound,
        names: Answering,
        link: HelperLink,
        on_failure: OnFailure,
    ) -> None:
        super().__init__(Caught(outbound), on_failure)
        self._link = link
        self._names = names
        self._asking = Tasks("dns")

    def consider(self, asked: Asked) -> None:
        """Somebody asks to connect: DNS is answered here, so that is always possible."""
        if self._names.at(asked.destination) is not None:
            self.answer(asked.number, Mark.OPEN)
        else:
            super().consider(asked)

    def answer(self, number: int, mark: Mark | None) -> None:
        """Verdicts take root, so the helper gives them."""
        self._link.verdict(number, None if mark is None else mark.name.lower())

    def accepted(self, sock: socket.socket, flow: Flow) -> None:
        """DNS is answered here; who came to our port by its own address is nobody."""
        if (names := self._names.at(flow[1])) is not None:
            self._asking.start(self._ask(sock, names), "connection")
        elif is_loopback(flow[1].host):
            sock.close()
        else:
            super().accepted(sock, flow)

    async def _ask(self, sock: socket.socket, names: HostNames) -> None:
        async with asyncio.timeout(DNS_SECONDS):
            await names.server.client(*await asyncio.open_connection(sock=sock))

    async def close(self) -> None:
        """Close the sockets and reset what is open."""
        await self._asking.close()
        await super().close()


class HostDatagrams(Datagrams):
    """UDP."""

    def __init__(self, outbound: Outbound, names: Answering, link: HelperLink) -> None:
        super().__init__(Caught(outbound), link)
        self._names = names
        self._answers = Answers(link)

    def caught(self, key: Key, payload: bytes) -> None:
        """A question, or another datagram."""
        if (names := self._names.at(key[1])) is not None:
            self._answers.ask(key, payload, names)
        elif not is_loopback(key[1].host):  # else it was sent to our own socket
            super().caught(key, payload)

    async def close(self) -> None:
        """End all flows and close the sockets."""
        await self._answers.close()
        await super().close()


def is_loopback(host: str) -> bool:
    """Whether a numeric address, as sockets have it, is this machine's to itself: asked for every connection."""
    return host.startswith("127.") or host == "::1"


def within(address: str, networks: tuple[Network, ...]) -> bool:
    """Whether an address or network is inside one of `networks`."""
    one = ipaddress.ip_network(address)
    return any(one.version == other.version and one.subnet_of(other) for other in networks)  # type: ignore[arg-type]
