"""Which part of the daemon serves what a laptop opens: one handler per kind and protocol, all others are refused."""

from collections.abc import Callable
from dataclasses import dataclass

from tproxy.model.flow import FlowKind, ResetReason
from tproxy.tunnel.conn import Conn


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a stream belongs to: a Session that its owner has proved to hold the token of.

    `namespace` is the Session's, which bounds what may be opened; `name` is `namespace/name`, for people.
    """

    uid: str
    name: str
    user: str
    namespace: str


Serve = Callable[[Identity, Conn], None]
"""Serves one connection that a laptop opened: sets `conn.sink`, or resets it, before it returns."""


class Openings:
    """Routes connections that laptops open. Parts add themselves before the first stream is accepted."""

    def __init__(self) -> None:
        self._serve: dict[tuple[FlowKind, str], Serve] = {}

    def add(self, kind: FlowKind, protocols: tuple[str, ...], serve: Serve) -> None:
        """Have `serve` serve what is opened of this kind and any of these protocols."""
        for protocol in protocols:
            self._serve[kind, protocol] = serve

    def open(self, identity: Identity, conn: Conn) -> None:
        """A laptop opened `conn`."""
        serve = self._serve.get((conn.request.kind, conn.request.protocol))
        if serve is None:
            conn.reset(ResetReason.DENIED, "this node daemon does not offer that")
        else:
            serve(identity, conn)
