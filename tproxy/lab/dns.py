"""The cluster's DNS server: Services and headless endpoints under `svc.cluster.local`, nothing else.

    web.shop.svc.cluster.local              A, AAAA   cluster addresses, or ready endpoints if headless
    _http._tcp.web.shop.svc.cluster.local   SRV       one per Service, or per endpoint if headless
    10-244-1-7.web.shop.svc.cluster.local   A, AAAA   one endpoint of a headless Service
    ext.shop.svc.cluster.local              CNAME     an ExternalName, with what it leads to if that is in the cluster

Missing names in `cluster.local` are NXDOMAIN, everything outside of it is REFUSED at once. `Zone` is the answer to a
question; `DnsServer` is its sockets.
"""

import asyncio
import logging
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import cast

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from tproxy.kube.errors import NotFoundError
from tproxy.kube.port import ENDPOINTSLICES, NAMESPACES, SERVICES, Object
from tproxy.lab.addresses import CLUSTER_DOMAIN
from tproxy.lab.api.store import Store
from tproxy.lab.services import cluster_ips
from tproxy.tasks import Tasks

log = logging.getLogger(__name__)

_TTL = 5
_MAX_TCP_CLIENTS = 64
_TCP_IDLE_SECONDS = 5.0
_DOMAIN = tuple(CLUSTER_DOMAIN.split("."))
_SOA = f"ns.dns.{CLUSTER_DOMAIN}. hostmaster.{CLUSTER_DOMAIN}. 1 7200 1800 86400 {_TTL}"


@dataclass(frozen=True, slots=True)
class _Endpoint:
    label: str
    address: str
    ports: tuple[tuple[str, str, int], ...]


class Zone:
    """Answers from `store`; without one it is a resolver that knows no cluster: every name is NXDOMAIN."""

    def __init__(self, store: Store | None) -> None:
        self._store = store

    def respond(self, wire: bytes) -> bytes | None:
        """The answer to one query in wire form, without a limit of size; None for what is no query at all."""
        try:
            query = dns.message.from_wire(wire)
        except (dns.exception.DNSException, ValueError):
            return None
        if query.flags & dns.flags.QR:
            return None
        response = dns.message.make_response(query, recursion_available=True)
        if len(query.question) != 1 or query.opcode() != 0:
            response.set_rcode(dns.rcode.NOTIMP)
            return response.to_wire()
        question = query.question[0]
        labels = tuple(label.decode("ascii", "replace").lower() for label in question.name.labels[:-1])
        if self._store is None:
            response.set_rcode(dns.rcode.NXDOMAIN)
        elif labels[-2:] != _DOMAIN or question.rdclass != dns.rdataclass.IN:
            response.set_rcode(dns.rcode.REFUSED)
        else:
            self._fill(self._store, response, question.name, question.rdtype, labels[:-2])
        return response.to_wire()

    def _fill(
        self,
        store: Store,
        response: dns.message.Message,
        name: dns.name.Name,
        kind: dns.rdatatype.RdataType,
        labels: tuple[str, ...],
    ) -> None:
        response.flags |= dns.flags.AA
        records = _lookup(store, labels)
        if records and records[0][0] == dns.rdatatype.CNAME and kind != dns.rdatatype.CNAME:
            response.answer.append(_rrset(name, dns.rdatatype.CNAME, [records[0][1]]))
            name = dns.name.from_text(records[0][1])
            target = tuple(label.decode("ascii", "replace").lower() for label in name.labels[:-1])
            if target[-2:] != _DOMAIN:
                return  # what is outside nobody here knows
            records = _lookup(store, target[:-2])
        if records is None:
            response.set_rcode(dns.rcode.NXDOMAIN)
        texts = [text for record_kind, text in records or () if kind in (record_kind, dns.rdatatype.ANY)]
        if texts:
            for record_kind in dict.fromkeys(record_kind for record_kind, _ in records or ()):
                if kind in (record_kind, dns.rdatatype.ANY):
                    matching = [text for one, text in records or () if one == record_kind]
                    response.answer.append(_rrset(name, record_kind, matching))
        else:
            response.authority.append(_rrset(dns.name.from_text(CLUSTER_DOMAIN), dns.rdatatype.SOA, [_SOA]))


def _rrset(name: dns.name.Name, kind: dns.rdatatype.RdataType, texts: Sequence[str]) -> dns.rrset.RRset:
    return dns.rrset.from_text_list(name, _TTL, dns.rdataclass.IN, kind, texts)


_Records = Sequence[tuple[dns.rdatatype.RdataType, str]]


def _lookup(store: Store, labels: tuple[str, ...]) -> _Records | None:
    """The records of a name below the cluster's domain; empty if it only has names below it, None if it is missing."""
    match labels:
        case () | ("svc",):
            return ()
        case (namespace, "svc"):
            return () if _exists(store, namespace) else None
        case (service, namespace, "svc"):
            found = _service(store, service, namespace)
            if found is not None and found["spec"].get("type") == "ExternalName":
                return [(dns.rdatatype.CNAME, found["spec"]["externalName"].rstrip(".") + ".")]
            return None if found is None else _addresses(_own_addresses(store, found))
        case (host, service, namespace, "svc") if not host.startswith("_"):
            found = _service(store, service, namespace)
            if found is None or cluster_ips(found):
                return None
            return _addresses(one.address for one in _endpoints(store, found) if one.label == host) or None
        case (port, protocol, service, namespace, "svc"):
            found = _service(store, service, namespace)
            return None if found is None else list(_ports(store, found, port, protocol)) or None
    return None


def _exists(store: Store, namespace: str) -> bool:
    try:
        store.get(NAMESPACES, namespace)
    except NotFoundError:
        return False
    return True


def _service(store: Store, name: str, namespace: str) -> Object | None:
    try:
        return store.get(SERVICES, name, namespace)
    except NotFoundError:
        return None


def _own_addresses(store: Store, service: Object) -> Iterable[str]:
    return cluster_ips(service) or dict.fromkeys(endpoint.address for endpoint in _endpoints(store, service))


def _addresses(addresses: Iterable[str]) -> list[tuple[dns.rdatatype.RdataType, str]]:
    kinds = {4: dns.rdatatype.A, 6: dns.rdatatype.AAAA}
    return [(kinds[ip_address(address).version], address) for address in addresses]


def _ports(store: Store, service: Object, port: str, protocol: str) -> Iterator[tuple[dns.rdatatype.RdataType, str]]:
    metadata = service["metadata"]
    domain = f"{metadata['name']}.{metadata['namespace']}.svc.{CLUSTER_DOMAIN}."
    if cluster_ips(service):
        for one in service["spec"].get("ports") or ():
            if _is_port(port, protocol, one.get("name", ""), one.get("protocol", "TCP")):
                yield dns.rdatatype.SRV, f"0 100 {one['port']} {domain}"
        return
    for endpoint in _endpoints(store, service):
        for name, kind, number in endpoint.ports:
            if _is_port(port, protocol, name, kind):
                yield dns.rdatatype.SRV, f"0 100 {number} {endpoint.label}.{domain}"


def _is_port(label: str, protocol_label: str, name: str, protocol: str) -> bool:
    return bool(name) and label == f"_{name.lower()}" and protocol_label == f"_{protocol.lower()}"


def _endpoints(store: Store, service: Object) -> Iterator[_Endpoint]:
    metadata = service["metadata"]
    selector = f"kubernetes.io/service-name={metadata['name']}"
    for piece in store.list(ENDPOINTSLICES, metadata["namespace"], labels=selector):
        ports = tuple(
            (port.get("name") or "", port.get("protocol") or "TCP", port["port"]) for port in piece.get("ports") or ()
        )
        for endpoint in piece.get("endpoints") or ():
            if (endpoint.get("conditions") or {}).get("ready", True):
                for address in endpoint["addresses"]:
                    label = endpoint.get("hostname") or address.replace(".", "-").replace(":", "-").strip("-")
                    yield _Endpoint(label, address, ports)


class DnsServer:
    """Serves one zone on sockets made by the caller inside the right network namespace."""

    def __init__(self, zone: Zone) -> None:
        self._zone = zone
        self._tasks = Tasks("lab-dns")
        self._datagrams: list[asyncio.DatagramTransport] = []
        self._servers: list[asyncio.Server] = []
        self._tcp_clients = asyncio.Semaphore(_MAX_TCP_CLIENTS)

    async def serve(self, datagram: socket.socket, listener: socket.socket) -> None:
        """Answer on a bound UDP socket and on a bound TCP socket until `close`."""
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self._zone.respond), sock=datagram)
        self._datagrams.append(transport)
        self._servers.append(await asyncio.start_server(self._client, sock=listener))

    async def close(self) -> None:
        """Close every socket."""
        for transport in self._datagrams:
            transport.close()
        for server in self._servers:
            server.close()
        await self._tasks.close()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with self._tcp_clients, asyncio.timeout(_TCP_IDLE_SECONDS):
                while True:
                    (length,) = struct.unpack("!H", await reader.readexactly(2))
                    answer = self._zone.respond(await reader.readexactly(length))
                    if answer is None:
                        return
                    writer.write(struct.pack("!H", len(answer)) + answer)
                    await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, respond: Callable[[bytes], bytes | None]) -> None:
        self._respond = respond

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not an instance by inheritance: the event loop is uvloop.
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        answer = self._respond(data)
        if answer is not None:
            self._transport.sendto(truncated(data, answer), addr)


def truncated(query: bytes, answer: bytes) -> bytes:
    """`answer` if it fits the query's UDP limit, else only its header with the TC flag: the client asks by TCP."""
    message = dns.message.from_wire(query)
    limit = max(512, min(message.payload, 4096)) if message.edns >= 0 else 512
    if len(answer) <= limit:
        return answer
    short = dns.message.make_response(message, recursion_available=True)
    short.flags |= dns.flags.TC
    return short.to_wire()
