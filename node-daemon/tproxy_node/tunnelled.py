"""One client's connection that goes to the laptop.

When the laptop is lost, an HTTP/1 client need not be: a request of which no answer's byte has come goes to the app if
it may be repeated, else it is answered with a 502; a connection between two requests is the app's. Everything else is
reset, as it is when any server dies.
"""

import asyncio
from typing import Protocol, cast

from tproxy.http.exchange import Remedy, failure
from tproxy.http.port import Choice
from tproxy.http.unanswered import Unanswered
from tproxy.model.flow import ResetReason
from tproxy.tunnel.bridge import Bridge
from tproxy.tunnel.conn import Buffer
from tproxy_node.draining import Draining
from tproxy_node.flows import Flow
from tproxy_node.lingering import Lingering

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
        """It is over, but not for its client, who begins anew with `data`."""
        ...


class Tunnelled(Bridge):
    """A client's connection that goes to the laptop of `choice`. `leaving`: its intercept has been left.

    `unanswered` follows what is said on it, None once that says nothing.
    """

    def __init__(self, pod: Pod, key: Key, choice: Choice, drain_seconds: float) -> None:
        super().__init__()
        self.key = key
        self.session = choice.session
        self.unanswered: Unanswered | None = Unanswered()
        self._choice = choice
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

    def data_received(self, data: bytes) -> None:
        """Bytes of the client."""
        if self.unanswered is not None:
            self.unanswered.asked(data)
            self._look()
        super().data_received(data)

    def conn_data(self, data: Buffer) -> None:
        """Bytes of the laptop."""
        if self.unanswered is not None:
            self.unanswered.answered(data)
            self._look()
        super().conn_data(data)

    def _look(self) -> None:
        if self.unanswered is not None and self.unanswered.lost:
            self.unanswered = None

    def conn_reset(self, reason: ResetReason, detail: str) -> None:
        """The laptop's side is gone."""
        self.flow.end = self.flow.end or f"{reason.value}: {detail}".removesuffix(": ")
        self._pod.tunnelled_reset(reason)
        if reason is not ResetReason.TUNNEL_LOST or not self._rescue(reason, detail):
            super().conn_reset(reason, detail)

    def _rescue(self, reason: ResetReason, detail: str) -> bool:
        """Do for the client what can be done; false if that is nothing."""
        unanswered, transport = self.unanswered, self._transport
        if unanswered is None or transport is None or transport.is_closing():
            return False
        what = unanswered.remedy(self._choice.on_disconnect)
        if what is None:
            return False
        transport.resume_reading()
        if what is Remedy.APP:
            self._pod.again(self, transport, unanswered.data)
            if self._tcp_eof:
                cast(asyncio.Protocol, transport.get_protocol()).eof_received()
            return True
        self.forget_client()
        self._pod.tunnelled_lost(self)
        said = failure(self._choice, reason, detail)
        Lingering(transport, said.answer(head_only=unanswered.methods == {b"HEAD"}, last=True), self._tcp_eof)
        return True
