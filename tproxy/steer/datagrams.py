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
        self._sockets: dict[int, socket.socket] = {}
        try:
            for family in (socket.AF_INET, socket.AF_INET6):
                if family in families:
                    self._sockets[family] = _raw(netns, family)
        except BaseException:
            self.close()
            raise

    def send(self, payload: bytes, question: Datagram) -> bool:
        family = socket.AF_INET6 if ":" in question.client.host else socket.AF_INET
        sock = self._sockets.get(family)
        if sock is None or len(payload) > _MAX_PAYLOAD:
            return False
        source, client = question.destination, question.client
        try:
            if family == socket.AF_INET:
                packet = udp4(source, client, payload)
                info = struct.pack("=i4s4x", 0, socket.inet_aton(source.host))
                sock.sendmsg([packet], [(socket.IPPROTO_IP, _IP_PKTINFO, info)], 0, (client.host, 0))
            else:
                packet = _UDP.pack(source.port, client.port, _UDP.size + len(payload), 0) + payload
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
    # The sum of 16-bit words with end-around carry is the whole as one number, modulo 65535.
    words = pseudo + header + payload + bytes(len(payload) % 2)
    checksum = 0xFFFF - int.from_bytes(words, "big") % 0xFFFF
    return header + struct.pack("!H", checksum or 0xFFFF) + payload


def _raw(netns: Netns, family: socket.AddressFamily) -> socket.socket:
    with netns.entered():
        sock = socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, socket.IPPROTO_UDP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, _REFUSE_ALL)
        sock.connect((_NOBODY[family], 0))
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_CHECKSUM, 6)  # where in the UDP header it goes
    except BaseException:
        sock.close()
        raise
    return sock
