"""Our own connections to the app: where they come from, and who the app is told has come.

A connection goes to exactly the address that the client meant, and comes from that same address, the pod's own; a
client on the pod's loopback has its own address kept (meshes know each other by 127.0.0.6). It is bound before it
connects, so that the kernel can be told to let it through, and the app whose connection it is (`peername`).

Ports go round. A port that is bound by its number may connect again though its last connection is still in TIME_WAIT,
as long as both sides use timestamps; one that the kernel is left to choose is kept from that for a minute, and 28,000
short connections would use all of them up.
"""

import collections
import contextlib
import errno
import socket
import time
from typing import Protocol

from tproxy.model.flow import Address
from tproxy.netns.handle import Netns
from tproxy.steer.peername import PeerNames

_REST_SECONDS = 0.01  # between two connections of a port: the other end tells them apart by the time, in milliseconds
_MOST_HOSTS = 64
_ATTEMPTS = 16


class Exemptions(Protocol):
    """How a backend lets our own connections through."""

    def add(self, sock: socket.socket) -> None:
        """Of a bound socket that has not connected. Raises OSError."""
        ...

    def remove(self, sock: socket.socket) -> None:
        """Of a socket that is closed by now."""
        ...


class Sources:
    """The connections of one pod's relay to its app."""

    def __init__(self, netns: Netns, exemptions: Exemptions, names: PeerNames | None) -> None:
        self._netns = netns
        self._exemptions = exemptions
        self._names = names
        self._closing = False
        self._rested: dict[str, collections.deque[tuple[int, float]]] = {}  # ports with when they became free, by host
        self._open: dict[socket.socket, tuple[str, int, bytes]] = {}

    @property
    def shows_clients(self) -> bool:
        """Whether the app sees who the clients are."""
        return self._names is not None

    def connect(self, client: Address, destination: Address) -> socket.socket:
        """A non-blocking socket whose connect has begun, and may be over. Raises OSError, also what connect says."""
        for attempt in range(_ATTEMPTS):
            sock = self._bound(client, destination, fresh=attempt > 0)
            try:
                with contextlib.suppress(BlockingIOError):
                    sock.connect((destination.host, destination.port))
                return sock
            except OSError as error:
                self.release(sock)
                # This port is still in use towards the destination: the app's side lives on, or has no timestamps, or
                # the event loop has not closed our last one yet. Those that rested beside it may well be no better.
                if error.errno != errno.EADDRNOTAVAIL:
                    raise
        raise OSError(errno.EADDRNOTAVAIL, "no free port towards the app")

    def release(self, sock: socket.socket) -> None:
        """Close, and end the exemption. Idempotent."""
        sock.close()
        opened = self._open.pop(sock, None)
        if opened is None:
            return
        host, port, key = opened
        self._exemptions.remove(sock)
        if self._names is not None:
            self._names.end(key)
            if self._closing and not self._open:
                self._names.close()
        if host in self._rested or len(self._rested) < _MOST_HOSTS:
            self._rested.setdefault(host, collections.deque()).append((port, time.monotonic()))

    def close(self) -> None:
        """Make no more connections. What apps are told of those there are lasts as long as they do. Idempotent."""
        self._closing = True
        if self._names is not None and not self._open:
            self._names.close()

    def _bound(self, client: Address, destination: Address, fresh: bool) -> socket.socket:
        family = socket.AF_INET6 if ":" in destination.host else socket.AF_INET
        host = client.host if _is_loopback(client.host) else destination.host
        with self._netns.entered():
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            # An app that restarts meanwhile may listen on the port that this one has.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            port = self._bind(sock, host, fresh)
            # Before its first packet leaves.
            key = b"" if self._names is None else self._names.put((host, port), client)
            self._exemptions.add(sock)
        except BaseException:
            sock.close()
            raise
        self._open[sock] = (host, port, key)
        return sock

    def _bind(self, sock: socket.socket, host: str, fresh: bool) -> int:
        rested = self._rested.get(host, ())
        while not fresh and rested and time.monotonic() - rested[0][1] >= _REST_SECONDS:
            port, _ = rested.popleft()
            # Somebody else may listen there by now.
            with contextlib.suppress(OSError):
                sock.bind((host, port))
                return port
        try:
            # One that nobody uses. It is odd as long as there are such: connections of others are given even ones.
            sock.bind((host, 0))
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not rested:
                raise
            sock.bind((host, rested.popleft()[0]))
        return int(sock.getsockname()[1])


def _is_loopback(host: str) -> bool:
    return host.startswith("127.") or host == "::1"
