"""An app's own listeners, where these get what belongs to no connection.

While a connection is taken over there is none for some microseconds. A segment that the client sends again just then is
answered with a reset by whoever listens there, and so has to be kept from him (`tproxy.steer.handover`).
"""

import contextlib
import socket
from collections.abc import Collection, Mapping

from tproxy.netns.descriptors import Descriptor
from tproxy.netns.handle import Netns
from tproxy.steer.sock_diag import ListenerList

MAX_DOORS = 64
"""Of one port, so that a take-over does not last for longer with an app of many more processes."""


class Doors:
    """Those of one pod. Raises OSError when made."""

    def __init__(self, netns: Netns) -> None:
        self._listeners = ListenerList(netns)
        self._inodes: Mapping[int, Collection[int]] = {}
        self._known: dict[int, Descriptor] = {}

    def look(self, ports: Collection[int]) -> set[int]:
        """Who listens on these ports now: the inodes of which `found` should be told. Raises OSError."""
        self._inodes = {port: sorted(self._listeners.of(port))[:MAX_DOORS] for port in ports}
        there = {inode for inodes in self._inodes.values() for inode in inodes}
        self._known = {inode: known for inode, known in self._known.items() if inode in there}
        return there - self._known.keys()

    def found(self, descriptors: Mapping[int, Descriptor]) -> None:
        """Who has the sockets with these inodes."""
        wanted = {inode for inodes in self._inodes.values() for inode in inodes}
        self._known |= {inode: one for inode, one in descriptors.items() if inode in wanted}

    def borrow(self, port: int, stack: contextlib.ExitStack) -> list[socket.socket]:
        """The listeners of a port, as far as they are to be had, until the end of `stack`."""
        borrowed = []
        for inode in self._inodes.get(port, ()):
            known = self._known.get(inode)
            if known is not None:
                with contextlib.suppress(OSError):  # it has just ended
                    borrowed.append(stack.enter_context(known.borrow()))
        return borrowed

    def close(self) -> None:
        """Idempotent."""
        self._listeners.close()
