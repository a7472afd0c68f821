"""What the node daemon needs of a steering backend; `tproxy.steer.sk_lookup` is the first one.

A backend steers *new* connections of some ports of one network namespace to listening sockets of ours, inside that
namespace, for as long as a lease is renewed. Nothing it does outlives the process.
"""

import socket
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tproxy.model.flow import Address
from tproxy.netns.handle import Netns


@dataclass(frozen=True, slots=True)
class SteeredPort:
    """A port of the pod, both address families."""

    port: int
    protocol: str = "TCP"


@dataclass(frozen=True, slots=True)
class Counters:
    """What the kernel did with new connections of one port since attach, or with datagrams."""

    steered: int = 0
    own: int = 0  # our own connections to the app, let through
    lease_expired: int = 0  # let through because the lease was not renewed
    no_listener: int = 0  # let through because the listener was missing
    passed: int = 0  # let through because `let_through` says so


@dataclass(frozen=True, slots=True)
class Datagram:
    """One that was steered to us: from whom, and to which address of the pod. `scope` is of link-local addresses."""

    payload: bytes
    client: Address
    destination: Address
    scope: int = 0


class Answers(Protocol):
    """Sends datagrams from addresses and ports of the pod that the app holds."""

    def send(self, payload: bytes, question: Datagram) -> bool:
        """Answer `question`'s client, from where it was sent to. False if it was dropped, as UDP may be."""
        ...

    def refuse(self, question: Datagram) -> None:
        """Have its client know that nobody listens where it was sent to."""
        ...

    def close(self) -> None:
        """Idempotent."""
        ...


class Datagrams(Protocol):
    """Steering of UDP in one network namespace: of whatever comes to a port, except to sockets of the app's that are
    connected to the sender."""

    @property
    def receivers(self) -> Sequence[socket.socket]:
        """Non-blocking UDP sockets, one per address family; `tproxy.steer.datagrams.receive` reads them."""
        ...

    @property
    def ports(self) -> frozenset[SteeredPort]:
        """The ports steered now."""
        ...

    def set_ports(self, ports: Iterable[SteeredPort]) -> None:
        """Steer exactly these from now on."""
        ...

    def counters(self) -> Mapping[int, Counters]:
        """By port. `steered` and `lease_expired` count datagrams."""
        ...

    def answers(self) -> Answers:
        """What answers them, for the caller to close. Raises OSError."""
        ...

    def stop(self) -> None:
        """Stop steering now: from here on the app gets them. What has come can still be received. Idempotent."""
        ...

    def close(self) -> None:
        """Stop if still steering, and close the receivers. Idempotent."""
        ...


class Attachment(Protocol):
    """Steering in one network namespace, of TCP."""

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
    def hears_strays(self) -> bool:
        """Whether packets that belong to no connection come to `listeners`, as first ones do, or to the app's."""
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

    @property
    def shows_clients(self) -> bool:
        """Whether the app sees the client at the other end of our own connections, rather than the pod itself."""
        ...

    def upstream(self, client: Address, destination: Address) -> socket.socket:
        """A non-blocking TCP socket in the namespace that connects to `destination` for `client`, and is not steered.

        The connect has begun and may be over: go on with `tproxy.connecting`. Everything lasts until
        `release` is called with the socket. Raises OSError, ConnectionRefusedError among them.
        """
        ...

    def release(self, sock: socket.socket) -> None:
        """Close `sock`, and end what was done for it. Idempotent."""
        ...

    def outdated(self) -> str:
        """What in the namespace is no longer as it was, so that this has to be attached anew; empty if nothing is."""
        ...

    def datagrams(self) -> Datagrams:
        """Begin steering UDP here as well, of no port yet; the caller's to close before this. Raises `TproxyError`."""
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

    def attach(self, netns: Netns, ports: Iterable[SteeredPort], cgroup: Path | None = None) -> Attachment:
        """Begin steering `ports` in `netns`. Raises `TproxyError` saying what the kernel lacks or refused.

        `cgroup` is the directory of the pod's cgroup, without which the app cannot be shown its clients.
        """
        ...

    def renew(self, seconds: float) -> None:
        """Renew the lease of every attachment to end `seconds` from now; called by the loop that serves."""
        ...

    def close(self) -> None:
        """Close every attachment."""
        ...
