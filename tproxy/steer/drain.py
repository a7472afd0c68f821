"""When is a listener that gets no new connections empty?

A connection on its way to a listener is first a handshake (SYN_RECV), then an entry of the accept queue. The kernel
does not say which listener a handshake belongs to. After detach, new handshakes towards the same port are the app's,
so only those seen around the moment of detaching are waited for.
"""

from collections.abc import Set

from tproxy.steer.sock_diag import Handshake

# A lookup that was running while the program was detached may still bring a handshake just after the first look.
_COLLECTING = 2
# Between SYN_RECV and the accept queue a connection is for an instant in neither.
_EMPTY_IN_A_ROW = 2


class Drain:
    """Judges successive observations, some milliseconds apart."""

    def __init__(self) -> None:
        self._seen = 0
        self._empty = 0
        self._waiting: set[Handshake] = set()

    def observe(self, handshakes: Set[Handshake], queued: int) -> bool:
        """Handshakes in progress and connections not yet accepted; True when nothing can come any more."""
        self._seen += 1
        if self._seen <= _COLLECTING:
            self._waiting |= handshakes
        else:
            self._waiting &= handshakes
        self._empty = 0 if self._waiting or queued else self._empty + 1
        return self._seen >= _COLLECTING and self._empty >= _EMPTY_IN_A_ROW
