"""A connection that nobody looks at any more: bytes, half-closes and resets pass between two ends as they come."""

from tproxy.http.port import Buffer, End, Hop, Upstream
from tproxy.model.flow import ResetReason


class Raw:
    """A `Router` to a single upstream. What either end has finished already is passed on."""

    def __init__(self, hop: Hop, upstream: Upstream, client_eof: bool = False, upstream_eof: bool = False) -> None:
        self._client = hop.client
        self._upstream = upstream
        self._client_eof = False
        self._upstream_eof = False
        self.client_data = upstream.write  # nothing in between
        if client_eof:
            self.client_eof()
        if upstream_eof:
            self.upstream_eof(upstream)

    def upstream_data(self, upstream: Upstream, data: Buffer) -> None:
        """For the client."""
        if upstream is self._upstream:
            self._client.write(data)

    def client_eof(self) -> None:
        """The client sends no more."""
        self._client_eof = True
        self._upstream.write_eof()
        self._close_if_over()

    def upstream_eof(self, upstream: Upstream) -> None:
        """The upstream sends no more."""
        if upstream is self._upstream:
            self._upstream_eof = True
            self._client.write_eof()
            self._close_if_over()

    def _close_if_over(self) -> None:
        if self._client_eof and self._upstream_eof:
            self._client.close()
            self._upstream.close()

    def client_lost(self) -> None:
        """So it is for the upstream."""
        self._upstream.reset()

    def upstream_lost(self, upstream: Upstream, reason: ResetReason, detail: str) -> None:
        """So it is for the client."""
        if upstream is self._upstream:
            self._client.reset()

    def client_pause(self) -> None:
        self._upstream.pause()

    def client_resume(self) -> None:
        self._upstream.resume()

    def upstream_pause(self, upstream: Upstream) -> None:
        self._wait(upstream, self._client)

    def upstream_resume(self, upstream: Upstream) -> None:
        if upstream is self._upstream:
            self._client.resume()

    def _wait(self, upstream: Upstream, end: End) -> None:
        if upstream is self._upstream:
            end.pause()

    def timeout(self) -> None:
        """Nothing was asked for."""

    def drain(self) -> None:
        """Where a protocol that nobody knows could be cut, nobody knows."""
