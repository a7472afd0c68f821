"""Our sockets inside a pod's namespace: the listeners that connections are steered to, and sources towards the app."""

import errno
import socket
import sys
from collections.abc import Container

from tproxy.netns.handle import Netns

_LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
_TRANSPARENT = {
    socket.AF_INET: (socket.IPPROTO_IP, socket.IP_TRANSPARENT),
    socket.AF_INET6: (socket.IPPROTO_IPV6, 75),  # IPV6_TRANSPARENT, which the module does not name
}
# The kernel lowers it to the namespace's net.core.somaxconn.
_BACKLOG = 65535
# No IPv6 in the kernel, or switched off in the namespace.
_NO_SUCH_FAMILY = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}


def open_listeners(netns: Netns, avoid: Container[int], transparent: bool = False) -> list[socket.socket]:
    """A non-blocking listener for each address family that the namespace has; raises OSError.

    They are bound to loopback so that nobody outside the pod can address them; the kernel program delivers
    connections for any address to them. Which port they have does not matter, as long as it is none in `avoid`: an app
    that has not started yet could not bind to it.
    """
    return _open_each(netns, socket.SOCK_STREAM, avoid, transparent)


def open_receivers(netns: Netns, avoid: Container[int], transparent: bool = False) -> list[socket.socket]:
    """The same for datagrams: non-blocking UDP sockets."""
    return _open_each(netns, socket.SOCK_DGRAM, avoid, transparent)


def _open_each(netns: Netns, kind: socket.SocketKind, avoid: Container[int], transparent: bool) -> list[socket.socket]:
    listeners: list[socket.socket] = []
    try:
        for family in (socket.AF_INET, socket.AF_INET6):
            try:
                listeners.append(_open(netns, family, kind, avoid, transparent))
            except OSError as error:
                if family == socket.AF_INET or error.errno not in _NO_SUCH_FAMILY:
                    raise
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _open(
    netns: Netns, family: socket.AddressFamily, kind: socket.SocketKind, avoid: Container[int], transparent: bool
) -> socket.socket:
    listener = netns.socket(family, kind)
    try:
        listener.setblocking(False)
        if family == socket.AF_INET6:
            # IPv4 has its own listener, whose accepted sockets speak of plain addresses, not mapped ones.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((_LOOPBACK[family], 0))
        if listener.getsockname()[1] in avoid:
            # While this one still holds the port, so that the kernel offers another.
            another = _open(netns, family, kind, avoid, transparent)
            listener.close()
            return another
        if transparent:
            # Only now: a transparent socket may bind to ::1 also where IPv6 is switched off.
            listener.setsockopt(*_TRANSPARENT[family], 1)
        if kind == socket.SOCK_DGRAM:
            return listener
        # Accepted sockets inherit it. They hold the intercepted port, and without it an app that starts anew while one
        # of them is open could not bind. (Only now: before bind the kernel might choose a port in use.)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def queued(listener: socket.socket) -> int:
    """How many connections wait to be accepted."""
    # Of a listening socket, tcpi_unacked (the fifth word after eight bytes) is the accept queue's length.
    return int.from_bytes(listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 28)[24:28], sys.byteorder)
