"""What is found in a pod's network when one looks: what steers there, who listens, whose queues are full.

Everything here is the kernel's word; what it should be is compared with it, and what differs becomes a sentence.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tproxy.netns.handle import Netns
from tproxy.steer import held
from tproxy.steer.held import Held
from tproxy.steer.port import Counters, SteeredPort
from tproxy.steer.sock_diag import Listening, listening, overflows


@dataclass(frozen=True, slots=True)
class Seen:
    """One namespace. `overflows` counts connections that found no room in an accept queue, anybody's, since ever."""

    netns: int
    held: tuple[Held, ...]
    listening: tuple[Listening, ...]
    overflows: int

    def of(self, protocol: str) -> Held | None:
        """The attachment of this protocol that counts: the last one wins."""
        return next((one for one in reversed(self.held) if one.protocol == protocol), None)

    def counters(self, port: SteeredPort) -> Counters | None:
        """What the kernel has counted of a port; None if it is not steered."""
        one = self.of(port.protocol)
        return one.ports.get(port) if one is not None else None

    def ours(self, cookies: frozenset[int]) -> list[Listening]:
        """The listeners that connections are steered to: by what the kernel says, or else by what we know."""
        one = self.of("TCP")
        wanted = cookies if one is None or one.listeners is None else one.listeners
        return [listener for listener in self.listening if listener.cookie in wanted]

    def apps(self, port: int, cookies: frozenset[int]) -> list[Listening]:
        """The app's listeners on a port."""
        ours = {listener.cookie for listener in self.ours(cookies)} | cookies
        return [one for one in self.listening if one.port == port and one.cookie not in ours]


def look(netns: Netns) -> Seen:
    """Look now; takes some milliseconds. Raises OSError."""
    found = [*held.by_links(netns.id.inode), *held.by_rules(netns)]
    return Seen(netns.id.inode, tuple(found), tuple(listening(netns)), overflows(netns))


def differences(seen: Seen, wanted: Mapping[SteeredPort, str], cookies: frozenset[int]) -> Iterable[str]:
    """What is not as it should be; `wanted` are the ports that should be steered, and for whom."""
    for protocol in ("TCP", "UDP"):
        ports = {port: whom for port, whom in wanted.items() if port.protocol == protocol}
        one = seen.of(protocol)
        steered = one.ports.keys() if one is not None else frozenset()
        for port in sorted(ports.keys() - steered, key=lambda each: each.port):
            yield f"port {_text(port)} should be steered for {ports[port]}, and is not"
        for port in sorted(steered - ports.keys(), key=lambda each: each.port):
            yield f"port {_text(port)} is steered, and nobody asks for it"
        if one is None:
            continue
        if not one.attached:
            yield f"{one.name} of {one.backend} is no longer attached: the app gets what comes"
        if one.ports and (one.lease is None or one.lease < 0):
            since = f" since {-one.lease:.1f} s" if one.lease is not None else ""
            yield f"the lease has run out{since}: the app gets what comes"
        if one.listeners is not None and protocol == "TCP":
            if not one.listeners and one.ports:
                yield "the program has no listener: the app gets what comes"
            elif cookies and not one.listeners <= cookies:
                yield "connections are steered to listeners that are not this daemon's"
    for listener in seen.ours(cookies):
        if listener.overflowing:
            yield f"the relay's accept queue is full: {listener.queue} of {listener.limit} wait"


def _text(port: SteeredPort) -> str:
    return str(port.port) if port.protocol == "TCP" else f"{port.port}/udp"
