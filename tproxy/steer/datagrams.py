"""UDP inside a pod's namespace: the sockets that datagrams are steered to, and answers from the app's own address.

The app holds its port, so no socket of ours can be bound to it: answers leave through raw sockets, which put the UDP
header together here and leave IP, and fragments, to the kernel.
"""

import ctypes
import socket
import struct
from collections.abc import Container

from tproxy.model.flow import Address
from tproxy.netns.handle import Netns
from tproxy.steer.port import Datagram

LARGEST = 65535
_BUFFER = 4 * 1024 * 1024  # what may wait for the relay, of one family
_SO_RCVBUFFORCE = 33

_IP_RECVORIGDSTADDR, _IPV6_RECVORIGDSTADDR = 20, 74
_IP_PKTINFO, _IPV6_PKTINFO = 8, 50
_IPV6_CHECKSUM = 7
_CMSG_SPACE = 256
_IN6 = struct.Struct("!HHI16sI")  # struct sockaddr_in6, the family in whatever order
_UDP = struct.Struct("!HHHH")
_MAX_PAYLOAD = 65535 - _UDP.size
_PROTOCOLS = {
    socket.AF_INET: (socket.IPPROTO_UDP, socket.IPPROTO_ICMP),
    socket.AF_INET6: (socket.IPPROTO_UDP, socket.IPPROTO_ICMPV6),
}
# Raw sockets are given a copy of every datagram of the namespace. These are connected to an address that sends none,
# so that the kernel passes them by, and refuse the rest.
_NOBODY = {socket.AF_INET: "127.255.255.254", socket.AF_INET6: "::1"}
_SO_ATTACH_FILTER = 26
_REFUSE = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0))  # classic BPF: take nothing of it
_REFUSE_ALL = struct.pack("@HP", 1, ctypes.addressof(_REFUSE))


def prepare(sock: socket.socket) -> None:
    """Before datagrams are steered to it: have it say where each was going to, and hold more than by default."""
    sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, _IP_RECVORIGDSTADDR, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVORIGDSTADDR, 1)


def receive(sock: socket.socket) -> Datagram | None:
    """The next datagram. Raises BlockingIOError if there is none; None for one that does not say where it was going."""
    payload, ancillary, _, source = sock.recvmsg(LARGEST, _CMSG_SPACE)
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, _IP_RECVORIGDSTADDR):
            port, packed = struct.unpack_from("!H4s", data, 2)
            return Datagram(payload, Address(*source[:2]), Address(socket.inet_ntop(socket.AF_INET, packed), port))
        if (level, kind) == (socket.IPPROTO_IPV6, _IPV6_RECVORIGDSTADDR):
            _, port, _, packed, _ = _IN6.unpack_from(data)
            destination = Address(socket.inet_ntop(socket.AF_INET6, packed), port)
            return Datagram(payload, Address(source[0].partition("%")[0], source[1]), destination, source[3])
    return None


class RawAnswers:
    """`tproxy.steer.port.Answers` by raw sockets, one for each address family."""

    def __init__(self, netns: Netns, families: Container[int]) -> None:
        """Raises OSError; PermissionError without CAP_NET_RAW."""
        self._sockets: dict[tuple[int, int], socket.socket] = {}
        try:
            for family, protocols in _PROTOCOLS.items():
                if family in families:
                    for protocol in protocols:
                        self._sockets[family, protocol] = _raw(netns, family, protocol)
        except BaseException:
            self.close()
            raise

    def send(self, payload: bytes, question: Datagram) -> bool:
        if len(payload) > _MAX_PAYLOAD:
            return False
        source, client = question.destination, question.client
        if ":" in client.host:
            header = _UDP.pack(source.port, client.port, _UDP.size + len(payload), 0)
            return self._send(socket.IPPROTO_UDP, header + payload, question)
        return self._send(socket.IPPROTO_UDP, udp4(source, client, payload), question)

    def refuse(self, question: Datagram) -> None:
        if ":" in question.client.host:
            self._send(socket.IPPROTO_ICMPV6, unreachable6(question), question)
        else:
            self._send(socket.IPPROTO_ICMP, unreachable4(question), question)

    def _send(self, protocol: int, packet: bytes, question: Datagram) -> bool:
        source, client = question.destination, question.client
        family = socket.AF_INET6 if ":" in client.host else socket.AF_INET
        sock = self._sockets.get((family, protocol))
        if sock is None:
            return False
        try:
            if family == socket.AF_INET:
                info = struct.pack("=i4s4x", 0, socket.inet_aton(source.host))
                sock.sendmsg([packet], [(socket.IPPROTO_IP, _IP_PKTINFO, info)], 0, (client.host, 0))
            else:
                info = struct.pack("=16si", socket.inet_pton(family, source.host), question.scope)
                to = (client.host, 0, 0, question.scope)
                sock.sendmsg([packet], [(socket.IPPROTO_IPV6, _IPV6_PKTINFO, info)], 0, to)
        except OSError:
            return False  # no room in a queue, no route any more, larger than the path takes
        return True

    def close(self) -> None:
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()


def udp4(source: Address, destination: Address, payload: bytes) -> bytes:
    """A UDP datagram over IPv4, its checksum computed (RFC 768)."""
    length = _UDP.size + len(payload)
    addresses = socket.inet_aton(source.host) + socket.inet_aton(destination.host)
    pseudo = addresses + struct.pack("!BBH", 0, socket.IPPROTO_UDP, length)
    header = struct.pack("!HHH", source.port, destination.port, length)
    return header + struct.pack("!H", _checksum(pseudo + header + payload)) + payload


def unreachable4(question: Datagram) -> bytes:
    """The ICMP message "port unreachable", with the beginning of what it is about (RFC 792)."""
    client, destination = question.client, question.destination
    about = _UDP.pack(client.port, destination.port, _UDP.size + len(question.payload), 0)
    length = 20 + _UDP.size + len(question.payload)
    header = struct.pack("!BBHHHBBH", 0x45, 0, length, 0, 0, 64, socket.IPPROTO_UDP, 0)
    header += socket.inet_aton(client.host) + socket.inet_aton(destination.host)
    header = header[:10] + struct.pack("!H", _checksum(header)) + header[12:]
    rest = bytes(4) + header + about
    return struct.pack("!BBH", 3, 3, _checksum(b"\x03\x03" + rest)) + rest


def unreachable6(question: Datagram) -> bytes:
    """The same in ICMPv6 (RFC 4443); the kernel fills in the checksum."""
    client, destination = question.client, question.destination
    length = _UDP.size + len(question.payload)
    header = struct.pack("!IHBB", 6 << 28, length, socket.IPPROTO_UDP, 64)
    header += socket.inet_pton(socket.AF_INET6, client.host) + socket.inet_pton(socket.AF_INET6, destination.host)
    return struct.pack("!BBHI", 1, 4, 0, 0) + header + _UDP.pack(client.port, destination.port, length, 0)


def _checksum(data: bytes) -> int:
    """The complement of the sum of 16-bit words with end-around carry (RFC 1071)."""
    # Of which the sum is the whole as one number, modulo 65535. Never 0, which in UDP would mean that there is none.
    return 0xFFFF - int.from_bytes(data + bytes(len(data) % 2), "big") % 0xFFFF


def _raw(netns: Netns, family: socket.AddressFamily, protocol: int) -> socket.socket:
    with netns.entered():
        sock = socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, _REFUSE_ALL)
        sock.connect((_NOBODY[family], 0))
        if protocol == socket.IPPROTO_UDP and family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_CHECKSUM, 6)  # where in the UDP header it goes
    except BaseException:
        sock.close()
        raise
    return sock
