"""A laptop that dials through a node's `Dialling`, in this process, from a real namespace; servers for it to reach."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
from tproxy_node.dial.dialling import DialLimits, Dialling
from tproxy_node.dial.origins import Origins
from tproxy_node.opening import Identity, Openings
from tproxy_node.places import Place, Places

from tests.kernel.namespaces import OUTSIDE_IP4, POD_IP4, POD_IP6, Namespace, PodNetwork, family_of
from tests.unit.node.objects import pod
from tests.unit.node.streams import tunnel
from tproxy.model.dial_policy import DialPolicy, Where
from tproxy.model.flow import RESOLVERS, Address, FlowKind, OpenRequest, ResetReason
from tproxy.netns.handle import Netns
from tproxy.tunnel.conn import Buffer, Conn

ALICE = Identity("uid-alice", "shop/alice", "alice", "shop")
RESOLV_CONF = (
    f"search shop.svc.cluster.local svc.cluster.local cluster.local\nnameserver {OUTSIDE_IP4}\noptions ndots:5\n"
)


class Known(Places):
    """Finds every pod in one namespace."""

    def __init__(self, network: PodNetwork, resolv_conf: str) -> None:
        super().__init__(Path("/proc"))
        self.network = network
        self.resolv_conf = resolv_conf

    def find(self, pods: Any) -> Any:
        return {one.uid: Place(one, Netns.open(self.network.pod.path)) for one in pods}

    def read(self, place: Place, path: str, limit: int) -> bytes:
        return self.resolv_conf.encode()[:limit]


class Received:
    """What the laptop hears of one connection."""

    def __init__(self) -> None:
        self.data = b""
        self.datagrams: asyncio.Queue[bytes] = asyncio.Queue()
        self.opened = asyncio.Event()
        self.eof = asyncio.Event()
        self.reset: asyncio.Future[tuple[ResetReason, str]] = asyncio.get_running_loop().create_future()
        self.conn: Conn

    def conn_opened(self) -> None:
        self.opened.set()

    def conn_data(self, data: Buffer) -> None:
        self.data += data
        self.conn.consumed(len(data))

    def conn_eof(self) -> None:
        self.eof.set()

    def conn_reset(self, reason: ResetReason, detail: str) -> None:
        if not self.reset.done():
            self.reset.set_result((reason, detail))

    def conn_pause(self) -> None: ...
    def conn_resume(self) -> None: ...

    async def reason(self, seconds: float = 5) -> ResetReason:
        async with asyncio.timeout(seconds):
            return (await asyncio.shield(self.reset))[0]


class Scene:
    """A node that dials, with one pod `shop/web-1`, and alice's laptop."""

    def __init__(
        self,
        network: PodNetwork,
        policy: DialPolicy | None = None,
        where: Where | None = None,
        limits: DialLimits | None = None,
        resolv_conf: str = RESOLV_CONF,
    ) -> None:
        self.network = network
        self.where = where or Where()
        self.pods = [pod("web-1", addresses=(POD_IP4, POD_IP6))]
        self.places = Known(network, resolv_conf)
        self.origins = Origins(lambda: self.pods, self.places)
        self.dialling = Dialling(self.origins, policy or DialPolicy(), lambda: self.where, limits)
        openings = Openings()
        self.dialling.serve_in(openings)
        self.node, self.laptop = tunnel()
        self.node.on_open = lambda conn: openings.open(ALICE, conn)

    def dial(self, host: str, port: int, protocol: str = "tcp", origin: str = "") -> Received:
        received = Received()
        destination = RESOLVERS if protocol in ("dns", "resolv.conf") else Address(host, port)
        request = OpenRequest(FlowKind.DIAL, destination, pod=origin, protocol=protocol)
        received.conn = self.laptop.open(request, received)
        received.conn.on_datagram = received.datagrams.put_nowait
        return received

    async def close(self) -> None:
        self.laptop.close()
        self.node.close()
        await self.dialling.close()


@contextlib.asynccontextmanager
async def scene(network: PodNetwork, **settings: Any) -> AsyncIterator[Scene]:
    made = Scene(network, **settings)
    try:
        async with asyncio.timeout(30):
            yield made
    finally:
        await made.close()


@contextlib.asynccontextmanager
async def udp_echo(place: Namespace, host: str, port: int) -> AsyncIterator[None]:
    """Sends datagrams back."""
    with udp(place, host, port) as sock:
        loop = asyncio.get_running_loop()

        def readable() -> None:
            with contextlib.suppress(BlockingIOError):
                sock.sendto(*sock.recvfrom(65536))

        loop.add_reader(sock, readable)
        try:
            yield
        finally:
            loop.remove_reader(sock)


def udp(place: Namespace, host: str, port: int) -> socket.socket:
    sock = place.netns.socket(family_of(host), socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind((host, port))
    return sock


class Zone:
    """A DNS server: `records` maps (name, type) to texts; other names do not exist. `asked` are the questions seen."""

    def __init__(self, records: dict[tuple[str, str], list[str]]) -> None:
        self.records = records
        self.asked: list[tuple[str, str, str]] = []
        self.silent = 0  # how many datagrams to lose
        self.truncate = False
        self.rcode = dns.rcode.NOERROR

    def answer(self, wire: bytes, by: str) -> bytes | None:
        query = dns.message.from_wire(wire)
        question = query.question[0]
        name, kind = question.name.to_text().rstrip("."), dns.rdatatype.to_text(question.rdtype)
        self.asked.append((by, name, kind))
        if self.silent:
            self.silent -= 1
            return None
        response = dns.message.make_response(query)
        if self.rcode != dns.rcode.NOERROR:
            response.set_rcode(self.rcode)
        elif by == "udp" and self.truncate:
            response.flags |= dns.flags.TC
        elif texts := self.records.get((name, kind)):
            response.answer.append(dns.rrset.from_text_list(question.name, 5, "IN", kind, texts))
        elif not any(known == name for known, _ in self.records):
            response.set_rcode(dns.rcode.NXDOMAIN)
        return response.to_wire()


@contextlib.asynccontextmanager
async def resolver(place: Namespace, zone: Zone, host: str = OUTSIDE_IP4) -> AsyncIterator[None]:
    """Serves `zone` by UDP and TCP at port 53."""
    loop = asyncio.get_running_loop()

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            (length,) = struct.unpack("!H", await reader.readexactly(2))
            answer = zone.answer(await reader.readexactly(length), "tcp")
            if answer is not None:
                writer.write(struct.pack("!H", len(answer)) + answer)
                await writer.drain()
        writer.close()

    with udp(place, host, 53) as sock:

        def readable() -> None:
            with contextlib.suppress(BlockingIOError):
                data, source = sock.recvfrom(65536)
                if (answer := zone.answer(data, "udp")) is not None:
                    sock.sendto(answer, source)

        loop.add_reader(sock, readable)
        server = await asyncio.start_server(client, sock=place.listen(host, 53))
        try:
            yield
        finally:
            server.close()
            loop.remove_reader(sock)


def play(scenario: Callable[[], Any]) -> None:
    asyncio.run(scenario())
