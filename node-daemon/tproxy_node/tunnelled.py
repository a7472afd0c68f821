"""One client's connection that goes to the laptop."""

import asyncio
from typing import Protocol

from tproxy.model.flow import ResetReason
from tproxy.tunnel.bridge import Bridge
from tproxy_node.draining import Draining
from tproxy_node.flows import Flow

Key = tuple[int, str]
"""The pod's port and the intercept's UID."""


class Pod(Protocol):
    """What hears of such a connection."""

    def tunnelled_lost(self, connection: "Tunnelled") -> None:
        """It is over."""
        ...

    def tunnelled_reset(self, reason: ResetReason) -> None:
        """Its far end is gone."""
        ...

    def again(self, connection: "Tunnelled", transport: asyncio.Transport, data: bytes) -> None:
        """It is over, but not for its client, who has just begun a request with `data`."""
        ...


class Tunnelled(Bridge):
    """A client's connection that goes to the laptop. `leaving`: its intercept has been left."""

    def __init__(self, pod: Pod, key: Key, session: str, drain_seconds: float) -> None:
        super().__init__()
        self.key = key
        self.session = session
        self.leaving = False
        self.flow: Flow
        self._pod = pod
        self._drain_seconds = drain_seconds
        self._deadline: asyncio.TimerHandle | None = None

    def drain(self) -> None:
        """The intercept has been left. Idempotent."""
        if self.leaving:
            return
        self.leaving = True
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(self._drain_seconds, self.abort, "the intercept has ended")
        transport, conn = self._transport, self._conn
        if transport is None or conn is None or transport.is_closing() or transport.get_protocol() is not self:
            return  # nobody has said anything yet, or it is over

        Draining(self, transport, conn, lambda transport, data: self._pod.again(self, transport, data))

    def forget_client(self) -> None:
        """The client's transport is somebody else's."""
        self._transport = None
        self.flow.over("went on elsewhere")
        self._end()

    def _end(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._end()
        self.flow.over("client" if exc is None else "client-reset")
        super().connection_lost(exc)
        self._pod.tunnelled_lost(self)

    def conn_reset(self, reason: ResetReason, detail: str) -> None:
        """The laptop's side is gone."""
        self.flow.end = self.flow.end or f"{reason.value}: {detail}".removesuffix(": ")
        self._pod.tunnelled_reset(reason)
        super().conn_reset(reason, detail)
