"""Which part of the daemon serves what a laptop opens: one handler per kind and protocol, all others are refused."""

from collections.abc import Callable
from dataclasses import dataclass

from tproxy.model.flow import FlowKind, ResetReason
from tproxy.model.session import SYSTEM_NAMESPACE
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

    @property
    def debugger(self) -> bool:
        """Whether it may ask everything, and for that may neither dial nor resolve nor read nor intercept."""
        return self.namespace == SYSTEM_NAMESPACE


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
        kind = conn.request.kind
        if identity.debugger and kind is not FlowKind.ASK:
            conn.reset(ResetReason.DENIED, f"a session of namespace {SYSTEM_NAMESPACE} may only ask the node questions")
            return
        serve = self._serve.get((kind, conn.request.protocol))
        if serve is None:
            conn.reset(ResetReason.DENIED, "this node daemon does not offer that")
        else:
            serve(identity, conn)
