"""What of the tunnel's connections `Outbound` serves itself: UDP flows, DNS questions, and a short text."""

import asyncio

from tproxy.dns import wire
from tproxy.errors import ClusterError
from tproxy.model.flow import RESOLVERS, Address, FlowKind, OpenRequest, ResetReason
from tproxy.tunnel.conn import Buffer, Conn
from tproxy.tunnel.endpoint import Endpoint
from tproxy_cli.daemon.outbound.port import DatagramSink

QUERY_SECONDS = 12.0
"""Longer than the node tries: two servers, twice."""

MAX_QUERIES = 200
"""Under way at a time; fewer than the node allows a session."""

MAX_NUMBERS = 1 << 16
"""Of queries."""

TEXT_SECONDS = 10.0
MAX_TEXT = 64 * 1024


class _Sink:
    """A connection that carries no bytes; sub-classes say what they want to hear."""

    def conn_opened(self) -> None:
        """The node has what it takes."""

    def conn_data(self, data: Buffer) -> None:
        """Nothing that belongs here."""

    def conn_eof(self) -> None:
        """The node is done."""

    def conn_reset(self, reason: ResetReason, detail: str) -> None:
        """Over."""

    def conn_pause(self) -> None:
        """Datagrams are dropped instead."""

    def conn_resume(self) -> None:
        """Nothing was held back."""


class UdpFlow(_Sink):
    """A `DatagramFlow`."""

    def __init__(self, endpoint: Endpoint, request: OpenRequest, sink: DatagramSink) -> None:
        self._sink = sink
        self._conn = endpoint.open(request, self)
        self._conn.on_datagram = sink.datagram

    def send(self, payload: bytes) -> bool:
        """Send one, or drop it: false when dropped."""
        return self._conn.write_datagram(payload)

    def close(self) -> None:
        """End the flow."""
        self._conn.reset()

    def conn_reset(self, reason: ResetReason, detail: str) -> None:
        """The node ended it."""
        self._sink.flow_ended(reason, detail)

    def conn_eof(self) -> None:
        """As good as."""
        self._conn.reset()
        self._sink.flow_ended(ResetReason.RESET, "")


class Questions(_Sink):
    """DNS questions through one connection, which is opened with the first one and anew when it has ended."""

    def __init__(self, endpoint: Endpoint, pod: str) -> None:
        self._endpoint = endpoint
        self._pod = pod
        self._conn: Conn | None = None
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._room = asyncio.Semaphore(MAX_QUERIES)
        self._number = 0

    async def ask(self, message: bytes) -> bytes:
        """The answer. Raises `TimeoutError`, and `ClusterError` if the node cannot ask."""
        async with self._room:
            # Nobody but the node can answer here, and it asks under numbers of its own: ours need not be random.
            number = (self._number + 1) % MAX_NUMBERS
            while number in self._waiting:
                number = (number + 1) % MAX_NUMBERS
            self._number = number
            future: asyncio.Future[bytes] = self._loop.create_future()
            self._waiting[number] = future
            timer = self._loop.call_later(QUERY_SECONDS, _fail, future, TimeoutError())
            try:
                # What finds no room in the tunnel is dropped there; a client asks again.
                self._open().write_datagram(number.to_bytes(2, "big") + message[2:])
                return message[:2] + (await future)[2:]
            finally:
                timer.cancel()
                del self._waiting[number]

    def _open(self) -> Conn:
        if self._conn is None or self._conn.closed:
            request = OpenRequest(FlowKind.DIAL, RESOLVERS, pod=self._pod, protocol="dns")
            self._conn = self._endpoint.open(request, self)
            self._conn.on_datagram = self._answered
        return self._conn

    def _answered(self, answer: bytes) -> None:
        future = self._waiting.get(int.from_bytes(answer[:2], "big")) if len(answer) >= wire.HEADER else None
        if future is not None and not future.done():
            future.set_result(answer)

    def conn_reset(self, reason: ResetReason, detail: str) -> None:
        """The node cannot, or the tunnel is gone."""
        self._conn = None
        for future in self._waiting.values():
            _fail(future, ClusterError(f"the cluster's DNS cannot be asked: {detail or reason.value}"))


def _fail(future: asyncio.Future[bytes], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


class _Text(_Sink):
    def __init__(self) -> None:
        self.conn: Conn
        self.whole: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._parts: list[bytes] = []
        self._size = 0

    def conn_data(self, data: Buffer) -> None:
        self._parts.append(bytes(data))
        self._size += len(data)
        self.conn.consumed(len(data))
        if self._size > MAX_TEXT:
            self.conn.reset()
            self._fail(ClusterError("the node sends more text than it should"))

    def conn_eof(self) -> None:
        self.conn.write_eof()
        if not self.whole.done():
            self.whole.set_result(b"".join(self._parts))

    def conn_reset(self, reason: ResetReason, detail: str) -> None:
        self._fail(ClusterError(detail or f"the node ended the connection: {reason.value}"))

    def _fail(self, error: ClusterError) -> None:
        if not self.whole.done():
            self.whole.set_exception(error)


async def read_text(endpoint: Endpoint, protocol: str, pod: str) -> str:
    """What the node has to say under `protocol`. Raises `ClusterError`."""
    sink = _Text()
    request = OpenRequest(FlowKind.DIAL, RESOLVERS, pod=pod, protocol=protocol)
    sink.conn = endpoint.open(request, sink)
    try:
        async with asyncio.timeout(TEXT_SECONDS):
            return (await sink.whole).decode(errors="replace")
    except TimeoutError:
        sink.conn.reset()
        raise ClusterError(
            f"the node did not say within {TEXT_SECONDS:.0f} s what its pod is configured with"
        ) from None


def dial_request(protocol: str, destination: Address, source: Address | None, pod: str) -> OpenRequest:
    """An OPEN for `destination`."""
    return OpenRequest(FlowKind.DIAL, destination, source, pod=pod, protocol=protocol)
