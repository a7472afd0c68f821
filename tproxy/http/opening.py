"""A connection until somebody has said enough to tell what it speaks.

    client says   a request of HTTP/1 ──► `Http1`      HTTP/2's preface ──► `Http2`
                  anything else, TLS and PROXY preambles among it ──► raw
    upstream says SETTINGS of HTTP/2, as gRPC servers do ──► held until the client has spoken
                  anything else ──► the client gets it, raw

Only what can still become a request, or the preface, is held; what stops in the middle is passed on after a moment.
"""

from tproxy.http.http1 import Http1
from tproxy.http.port import Buffer, Hop, Http2Maker, Router, Upstream
from tproxy.http.undecided import HOLD_SECONDS
from tproxy.model.flow import ResetReason

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client of HTTP/2 says first (RFC 9113, 3.4)."""

SILENT_SECONDS = 5.0
"""How long a client that says nothing is kept while the app refuses connections: a laptop may be meant."""

MAX_EARLY = 16 * 1024
"""Bytes of an upstream that are held."""

_SETTINGS = 4
_MAX_SETTINGS = 1024


class Opening:
    """A `Router`, the first of each connection."""

    def __init__(self, hop: Hop, http2: Http2Maker) -> None:
        self._hop = hop
        self._http2 = http2
        self._held = b""  # of the client: a part of the preface
        self._early = b""  # of the default upstream: SETTINGS, it seems
        self._lost: tuple[ResetReason, str] | None = None  # why the default upstream is

    def client_data(self, data: bytes) -> None:
        """The first word."""
        data = self._held + data
        if len(data) < len(PREFACE) and PREFACE.startswith(data):
            self._held = data
            self._hop.wake(HOLD_SECONDS)
        elif data.startswith(PREFACE):
            router = self._http2(self._hop, self._early, False)
            if self._lost is not None:
                router.upstream_lost(self._hop.default, *self._lost)
            self._become(router, data)
        elif self._early:
            self._raw(data)  # those were no SETTINGS
        else:
            self._become(Http1(self._hop, self._http2, self._lost is not None), data)

    def _become(self, router: Router, data: bytes) -> None:
        self._hop.wake(None)
        self._hop.become(router)
        router.client_data(data)

    def _raw(self, data: bytes = b"") -> None:
        if self._lost is not None:
            self._hop.client.reset()
            return
        hop = self._hop
        hop.wake(None)
        if self._early:
            hop.client.write(self._early)
        if data:
            hop.default.write(data)
        hop.splice(hop.default)

    def client_eof(self) -> None:
        """The client has nothing more to say."""
        self._raw(self._held)

    def client_lost(self) -> None:
        """The client is gone."""
        if self._lost is None:
            self._hop.default.reset()

    def client_pause(self) -> None:
        """Nothing has been written."""

    def client_resume(self) -> None:
        """Nothing has been written."""

    def upstream_data(self, upstream: Upstream, data: Buffer) -> None:
        """The upstream speaks first."""
        self._early += data
        if len(self._early) > MAX_EARLY or not _may_be_settings(self._early):
            self._raw(self._held)

    def upstream_eof(self, upstream: Upstream) -> None:
        """The upstream has nothing more to say."""
        self._raw(self._held)

    def upstream_lost(self, upstream: Upstream, reason: ResetReason, detail: str) -> None:
        """Refused, most likely: the client's first request may be for a laptop all the same."""
        self._lost = (reason, detail)
        if reason is ResetReason.RESET:
            self._hop.client.reset()
        elif not self._held:
            self._hop.wake(SILENT_SECONDS)

    def upstream_pause(self, upstream: Upstream) -> None:
        """Nothing has been written."""

    def upstream_resume(self, upstream: Upstream) -> None:
        """Nothing has been written."""

    def timeout(self) -> None:
        """The client has stopped in the middle of its first word, or says nothing while the app refuses connections."""
        if not self._held:
            self._hop.client.reset()
            return
        router = Http1(self._hop, self._http2, self._lost is not None)
        self._become(router, self._held)
        router.timeout()

    def drain(self) -> None:
        """Nobody intercepts this port any more."""
        self._raw(self._held)


def _may_be_settings(data: bytes) -> bool:
    """Whether `data` begins like a SETTINGS frame that is no acknowledgement (RFC 9113, 6.5), as far as it goes."""
    if len(data) < 9:
        return (data + b"\0\0\0\4\0\0\0\0\0"[len(data) :])[3:9] == b"\4\0\0\0\0\0" and data[:1] == b"\0"
    length = int.from_bytes(data[:3], "big")
    return data[3:9] == bytes((_SETTINGS, 0, 0, 0, 0, 0)) and length <= _MAX_SETTINGS and length % 6 == 0
