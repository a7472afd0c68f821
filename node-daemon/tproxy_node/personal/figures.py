"""Tells a laptop what became of the requests on the ports of its intercepts."""

import json
from collections.abc import Callable, Iterable

from tproxy.model.figures import Requests
from tproxy.model.flow import FlowKind, ResetReason
from tproxy.tunnel.conn import Buffer, Conn
from tproxy_node.opening import Identity, Openings

PROTOCOL = "requests"
MAX_INTERCEPTS = 512
"""Of one session that are told of."""


class Figures:
    """Answers READ of `requests` with JSON and FIN: `{"intercepts": {UID: Requests}}`, of the session's own intercepts.

    `intercepts_of` gives the UIDs of a session's intercepts.
    """

    def __init__(self, intercepts_of: Callable[[str], Iterable[str]], requests: Callable[[str], Requests]) -> None:
        self._intercepts_of = intercepts_of
        self._requests = requests

    def serve_in(self, openings: Openings) -> None:
        """Serve what laptops open of this kind."""
        openings.add(FlowKind.READ, (PROTOCOL,), self._open)

    def _open(self, identity: Identity, conn: Conn) -> None:
        conn.sink = _Silent(conn)
        uids = sorted(self._intercepts_of(identity.uid))[:MAX_INTERCEPTS]
        document = {"intercepts": {uid: self._requests(uid).to_json() for uid in uids}}
        conn.accept()
        conn.write(json.dumps(document, separators=(",", ":")).encode())
        conn.write_eof()


class _Silent:
    """The sink of a connection on which only the node speaks, and only once."""

    def __init__(self, conn: Conn) -> None:
        self._conn = conn

    def conn_opened(self) -> None:
        """Not for connections of the peer."""

    def conn_data(self, data: Buffer) -> None:
        """There is nothing to say to us."""
        self._conn.consumed(len(data))

    def conn_eof(self) -> None:
        """As expected."""

    def conn_reset(self, reason: ResetReason, detail: str) -> None:
        """It does not want to know any more."""

    def conn_pause(self) -> None:
        """What there was to say has been said."""

    def conn_resume(self) -> None:
        """What there was to say has been said."""
