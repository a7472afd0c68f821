"""What the node daemon needs of a steering backend; `tproxy.steer.sk_lookup` is the first one.

A backend steers *new* connections of some ports of one network namespace to listening sockets of ours, inside that
namespace, for as long as a lease is renewed. Nothing it does outlives the process.
"""

import socket
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tproxy.netns.handle import Netns


@dataclass(frozen=True, slots=True)
class SteeredPort:
    """A TCP port of the pod, both address families."""

    port: int


@dataclass(frozen=True, slots=True)
class Counters:
    """What the kernel did with new connections of one port since attach."""

    steered: int = 0
    own: int = 0  # our own connections to the app, let through
    lease_expired: int = 0  # let through because the lease was not renewed
    no_listener: int = 0  # let through because the listener was missing
    passed: int = 0  # let through because `let_through` says so


class Attachment(Protocol):
    """Steering in one network namespace."""

    @property
    def backend(self) -> str:
        """The backend's name, for people: `sk_lookup` or `tproxy`."""
        ...

    @property
    def listeners(self) -> Sequence[socket.socket]:
        """Non-blocking listening sockets, one per address family, inside the namespace.

        On an accepted socket `getsockname()` is the destination the client meant, `getpeername()` the client.
        """
        ...

    @property
    def ports(self) -> frozenset[SteeredPort]:
        """The ports steered now."""
        ...

    def set_ports(self, ports: Iterable[SteeredPort]) -> None:
        """Steer exactly these from now on. Established connections are untouched."""
        ...

    def let_through(self, connections: Collection[tuple[str, int]]) -> bool:
        """Do not steer connections from these addresses to these ports, from now on.

        False if this backend cannot tell them from others. Raises OSError.
        """
        ...

    def upstream(self, family: socket.AddressFamily, destination: tuple[str, int]) -> socket.socket:
        """A non-blocking, unconnected TCP socket in the namespace whose connect to `destination` is not steered.

        The exemption is for the socket's source address and port and lasts until `release` is called with it.
        """
        ...

    def release(self, sock: socket.socket) -> None:
        """End the exemption and close `sock`."""
        ...

    def counters(self) -> Mapping[int, Counters]:
        """By port."""
        ...

    def stop(self) -> None:
        """Stop steering now: from here on the kernel gives new connections to the app. Idempotent."""
        ...

    async def drained(self, timeout: float) -> bool:  # noqa: ASYNC109 - running out of time is an answer
        """After `stop`: wait until every handshake begun towards our listeners has been accepted.

        The caller keeps accepting meanwhile. False after `timeout` seconds.
        """
        ...

    def close(self) -> None:
        """Stop if still steering, and close the listeners. Idempotent."""
        ...


class Steering(Protocol):
    """A backend."""

    @property
    def name(self) -> str:
        """The backend's name, for people."""
        ...

    def attach(self, netns: Netns, ports: Iterable[SteeredPort]) -> Attachment:
        """Begin steering `ports` in `netns`. Raises `TproxyError` saying what the kernel lacks or refused."""
        ...

    def renew(self, seconds: float) -> None:
        """Renew the lease of every attachment to end `seconds` from now; called by the loop that serves."""
        ...

    def close(self) -> None:
        """Close every attachment."""
        ...
