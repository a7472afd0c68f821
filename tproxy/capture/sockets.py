"""The sockets that serve caught traffic. They are made inside the namespace, and serve wherever they are passed to."""

import os
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tproxy.capture import queue
from tproxy.capture.layout import DNS_PORT, IP4, QUEUE, RELAY_PORT, Family, Mark
from tproxy.model.flow import Address

BACKLOG = 4096
_NETLINK_NETFILTER = 12
_SOL_NETLINK = 270
_NETLINK_NO_ENOBUFS = 5
# Python has no names for these.
_IP_TRANSPARENT, _IP_RECVORIGDSTADDR = 19, 20
_IPV6_TRANSPARENT, _IPV6_RECVORIGDSTADDR = 75, 74
_RECEIVE_BUFFER = 1 << 20
ANCILLARY_SPACE = socket.CMSG_SPACE(28)
"""Room for the original destination beside a datagram: a struct sockaddr_in6."""


@dataclass(frozen=True, slots=True)
class Sockets:
    """The sockets of one namespace by what they are for: `tcp` and `udp` by family, `dns` and `dns_tcp`, `queue`."""

    by_name: Mapping[str, socket.socket]

    def close(self) -> None:
        """Close all."""
        for sock in self.by_name.values():
            sock.close()


def make(families: Sequence[Family], ask: bool) -> Sockets:
    """Make them in the calling process' namespace. Raises OSError."""
    made: dict[str, socket.socket] = {}
    try:
        for family in families:
            label = "6" if family.number == socket.AF_INET6 else "4"
            made[f"tcp{label}"] = _bound(family, socket.SOCK_STREAM, RELAY_PORT, transparent=True)
            made[f"tcp{label}"].listen(BACKLOG)
            made[f"udp{label}"] = _bound(family, socket.SOCK_DGRAM, RELAY_PORT, transparent=True)
        made["dns"] = _bound(IP4, socket.SOCK_DGRAM, DNS_PORT)
        made["dns_tcp"] = _bound(IP4, socket.SOCK_STREAM, DNS_PORT)
        made["dns_tcp"].listen(BACKLOG)
        if ask:
            made["queue"] = asking()
    except BaseException:
        Sockets(made).close()
        raise
    return Sockets(made)


def fresh(family: int, kind: int) -> socket.socket:
    """An unbound socket whose packets are not caught again."""
    made = socket.socket(family, kind)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, Mark.OWN)
    return made


def answering(sock: socket.socket, own: Address, peer: Address | None) -> None:
    """Let a `fresh` UDP socket speak to `peer` from an address that is `own` only to us. Raises OSError.

    From then on what the peer sends there arrives here and not at the listener. Without a peer it speaks to whom it
    likes, and what is caught still arrives at the listener. Works from outside of the namespace too, for the user who
    owns it.
    """
    _set_transparent(sock)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((own.host, own.port))
    if peer is not None:
        sock.connect((peer.host, peer.port))


def original_destination(ancillary: Sequence[tuple[int, int, bytes]]) -> Address | None:
    """Where a datagram that the UDP socket received was meant to go."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, _IP_RECVORIGDSTADDR) and len(data) >= 8:
            return Address(socket.inet_ntop(socket.AF_INET, data[4:8]), struct.unpack_from("!H", data, 2)[0])
        if (level, kind) == (socket.IPPROTO_IPV6, _IPV6_RECVORIGDSTADDR) and len(data) >= 24:
            return Address(socket.inet_ntop(socket.AF_INET6, data[8:24]), struct.unpack_from("!H", data, 2)[0])
    return None


def _bound(family: Family, kind: int, port: int, transparent: bool = False) -> socket.socket:
    made = fresh(family.number, kind)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family.number == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if transparent:
        _set_transparent(made)
    if kind == socket.SOCK_DGRAM:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        if transparent and family.number == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVORIGDSTADDR, 1)
        elif transparent:
            made.setsockopt(socket.IPPROTO_IP, _IP_RECVORIGDSTADDR, 1)
    made.bind((family.relay, port))
    return made


def _set_transparent(sock: socket.socket) -> None:
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)


def asking(number: int = QUEUE) -> socket.socket:
    """The socket that is asked about what waits in a packet queue. Raises OSError."""
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    try:
        # With a full buffer the kernel drops the SYN, which comes again; there is nothing to tell us.
        made.setsockopt(_SOL_NETLINK, _NETLINK_NO_ENOBUFS, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        made.send(queue.bind(number))
        answers = 0
        while answers < 3:
            for error in queue.errors(made.recv(queue.LONGEST_MESSAGE)):
                if error:
                    raise OSError(error, f"packet queue: {os.strerror(error)}")
                answers += 1
    except BaseException:
        made.close()
        raise
    return made
