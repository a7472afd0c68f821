"""One READ through a tunnel: the records that the node answers with, as they come."""

import asyncio
from collections.abc import AsyncIterator

from tproxy.env.records import RecordError, RecordKind, RecordReader
from tproxy.errors import ClusterError, DeniedError, TproxyError
from tproxy.model.flow import NOWHERE, FlowKind, OpenRequest, ResetReason
from tproxy.tunnel.conn import Buffer, Conn
from tproxy.tunnel.endpoint import Endpoint
from tproxy_cli.daemon.given.source import Source

Record = tuple[RecordKind, bytes]


class TunnelLostError(ClusterError):
    """The tunnel ended meanwhile; another one may stand soon."""


async def read(endpoint: Endpoint, source: Source, protocol: str) -> AsyncIterator[Record]:
    """Open `protocol` of a container and give the records until the node ends the answer. Raises TproxyError."""
    sink = _Records()
    pod = f"{source.namespace}/{source.pod}"
    request = OpenRequest(FlowKind.READ, NOWHERE, pod=pod, protocol=protocol, container=source.container)
    conn = endpoint.open(request, sink)
    sink.conn = conn
    try:
        while (answer := await sink.take()) is not None:
            if isinstance(answer, TproxyError):
                raise answer
            yield answer
        conn.write_eof()
    finally:
        conn.reset()


class _Records:
    """The sink. While a record waits to be taken the node is given no credit for what follows it."""

    def __init__(self) -> None:
        self.conn: Conn | None = None
        self._news: asyncio.Queue[Record | TproxyError | None] = asyncio.Queue()
        self._reader = RecordReader()
        self._owed = 0

    async def take(self) -> Record | TproxyError | None:
        """The next record; why there is none, or None at the end."""
        answer = await self._news.get()
        if self._news.empty() and self.conn is not None:
            owed, self._owed = self._owed, 0
            self.conn.consumed(owed)
        return answer

    def conn_opened(self) -> None:
        """The node has found the container."""

    def conn_data(self, data: Buffer) -> None:
        """A part of the answer."""
        conn = self.conn
        if conn is None:
            return
        try:
            for record in self._reader.feed(data):
                self._news.put_nowait(record)
        except RecordError as error:
            self._news.put_nowait(ClusterError(f"the node daemon sent {error}", "`tproxy version` compares versions"))
            conn.reset(ResetReason.RESET, str(error))
            return
        if self._news.empty():
            conn.consumed(len(data))
        else:
            self._owed += len(data)

    def conn_eof(self) -> None:
        """That was all."""
        self._news.put_nowait(None)

    def conn_reset(self, reason: ResetReason, detail: str) -> None:
        """There is no answer, or no more of it."""
        self._news.put_nowait(_error(reason, detail))

    def conn_pause(self) -> None:
        """Nothing is written here."""

    def conn_resume(self) -> None:
        """Nothing is written here."""


def _error(reason: ResetReason, detail: str) -> TproxyError:
    said = detail or reason.value
    if reason is ResetReason.TUNNEL_LOST:
        return TunnelLostError(f"the tunnel was lost: {said}", "try again")
    if reason is ResetReason.DENIED:
        return DeniedError(said, "whoever administers tproxy in this cluster decides that")
    if reason is ResetReason.UNREACHABLE:
        return ClusterError(said, "`kubectl get pods` shows how they are; `-c CONTAINER` chooses another container")
    return ClusterError(f"the node daemon could not read: {said}", "its log says more")
