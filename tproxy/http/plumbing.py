"""What the router of HTTP/1 does with connections rather than with messages: pacing them, and ending them in order."""

from tproxy.http.exchange import Matched
from tproxy.http.port import Hop, Upstream
from tproxy.http.undecided import Undecided
from tproxy.model.flow import ResetReason

LINGER_SECONDS = 5.0
"""How long a client that was told the end may go on sending."""


class Plumbing:
    """The client, the default upstream, and the laptop that has a request now."""

    def __init__(self, hop: Hop, default_lost: bool) -> None:
        self._hop = hop
        self._client = hop.client
        self._default = hop.default
        self._default_lost = default_lost
        self._matched: Matched | None = None  # a laptop has it; nothing else is under way then
        self._undecided = Undecided(hop.held)
        self._blocked = False  # no request can be begun now
        self._full: set[Upstream] = set()  # those that take no more for now
        self._slow = False  # the client takes no more for now
        self._stopped = False  # we read nothing of the client
        self._client_eof = False
        self._over = False

    def _pass(self, data: bytes) -> None:
        """Bytes for the default upstream, which may have been shown their beginning already."""
        if self._default_lost:
            self._default = self._hop.reopen()
            self._default_lost = False
            if self._slow:
                self._default.pause()
        self._default.write(self._undecided.unshown(data))

    def client_pause(self) -> None:
        """The client reads slowly."""
        self._slow = True
        for upstream in self._upstreams():
            upstream.pause()

    def client_resume(self) -> None:
        """It has caught up."""
        self._slow = False
        for upstream in self._upstreams():
            upstream.resume()

    def upstream_pause(self, upstream: Upstream) -> None:
        """It takes no more for now."""
        self._full.add(upstream)
        self._stop()

    def upstream_resume(self, upstream: Upstream) -> None:
        """It takes more."""
        self._full.discard(upstream)
        if not (self._undecided and self._blocked):
            self._start()

    def _lose_default(self) -> None:
        if not self._default_lost:
            self._default.reset()
            self._default_lost = True
            self._full.discard(self._default)

    def _replaced(self, reason: ResetReason, detail: str) -> bool:
        """Whether the client of a default upstream that is lost has been cared for."""
        found = self._hop.stand_in(reason, detail) if reason is ResetReason.TUNNEL_LOST else None
        if found is None:
            return False
        if isinstance(found, bytes):
            self._client.write(found)
            self._finish()
            return True
        self._default = found
        self._default_lost = False
        if self._slow:
            found.pause()
        self._start()
        return True

    def _raw(self, upstream: Upstream, rest: bytes) -> None:
        """Nobody looks at this connection any more: it is the client's and `upstream`'s."""
        self._over = True
        if upstream is not self._default:
            if rest:
                upstream.write(rest)
        elif rest or not self._default_lost:
            self._pass(rest)
            upstream = self._default
        else:
            self._end()
            return
        self._start()
        self._hop.splice(upstream)

    def _finish(self) -> None:
        """The last answer has been given: wait for the client to see it."""
        self._over = True
        if self._client_eof:
            self._end()
            return
        self._client.write_eof()
        self._start()
        self._hop.wake(LINGER_SECONDS)

    def _end(self, reset: bool = False) -> None:
        self._over = True
        self._hop.wake(None)
        if reset:
            self._client.reset()
        else:
            self._client.close()
        self._release_all(reset)

    def _release_all(self, reset: bool) -> None:
        if self._matched is not None and self._matched.upstream is not None:
            self._matched.upstream.reset()
        if self._default_lost:
            return
        if reset:
            self._default.reset()
        else:
            self._default.close()

    def _upstreams(self) -> list[Upstream]:
        laptop = self._matched.upstream if self._matched is not None else None
        return [self._default] if laptop is None else [self._default, laptop]

    def _stop(self) -> None:
        if not self._stopped:
            self._stopped = True
            self._client.pause()

    def _start(self) -> None:
        if self._stopped and not self._full:
            self._stopped = False
            self._client.resume()
