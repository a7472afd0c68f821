"""Port-forward over a WebSocket, as the kubelet speaks it (`v4.channel.k8s.io`).

Every message starts with a channel byte: for the n-th port, 2n carries data both ways and 2n+1 error text to the
client. The first message of each channel is the port number, two bytes, little endian. There is no half-close: when
the pod's side ends, or the connect fails, that is said and the WebSocket is closed once all ports have ended.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable
from typing import cast

from aiohttp import WSMsgType, web

from tproxy.errors import TproxyError
from tproxy.kube.port import Object
from tproxy.lab.api.errors import BadRequestError
from tproxy.tasks import Tasks

Dial = Callable[[str, str, int], Awaitable[socket.socket]]
"""namespace, pod, port -> a connected socket inside the pod's namespace. Raises OSError or TproxyError."""

SUBPROTOCOLS = ("v4.channel.k8s.io", "portforward.k8s.io")
WAITING_BYTES = 256 * 1024
"""What may wait to be sent to a client before its pod is read no further."""
MAX_MESSAGE_BYTES = 4 * 1024 * 1024

_BINARY_MESSAGE = b"\x82"  # the first byte of a whole binary message, RFC 6455 section 5.2


def requested_ports(http: web.Request) -> list[int]:
    """The ports of the query, each between 1 and 65535. Raises BadRequestError."""
    texts = [text for value in http.query.getall("ports", []) for text in value.split(",")]
    if not texts:
        raise BadRequestError('query parameter "ports" is required')
    for text in texts:
        if not text.isdecimal() or not 0 < int(text) < 65536:
            raise BadRequestError(f"unable to parse {text[:32]!r} as a port")
    return [int(text) for text in texts]


async def serve(http: web.Request, pod: Object, dial: Dial) -> web.StreamResponse:
    """Answer a port-forward request. Raises BadRequestError if the pod doesn't run or this is no WebSocket."""
    ws = web.WebSocketResponse(protocols=SUBPROTOCOLS, compress=False, max_msg_size=MAX_MESSAGE_BYTES)
    if http.headers.get("Accept", "*/*") != "*/*":
        raise web.HTTPNotAcceptable(text="406: Not Acceptable")  # as a kubelet: there is no body to have a type
    handshake = ws.can_prepare(http)
    if not handshake or ("Sec-WebSocket-Protocol" in http.headers and handshake.protocol is None):
        raise BadRequestError(
            f"Upgrade request required: the lab forwards ports over WebSockets with {SUBPROTOCOLS[0]} only,"
            " not over SPDY as kubectl port-forward does"
        )
    ports = requested_ports(http)
    phase = pod.get("status", {}).get("phase", "Unknown")
    if phase != "Running":
        raise BadRequestError(f"unable to forward port because pod is not running. Current status={phase}")
    try:
        await ws.prepare(http)
    except ConnectionError:  # the client has gone
        return web.Response()
    with contextlib.suppress(ConnectionError):
        await _Forward(http, ws, pod, ports).run(dial)
        await ws.close()
    return ws


class _Forward:
    """One WebSocket and the pod's connections behind it, by data channel.

    Little is queued here: each direction reads on only when the other side takes what was read before.
    """

    def __init__(self, http: web.Request, ws: web.WebSocketResponse, pod: Object, ports: list[int]) -> None:
        self.ws = ws
        self.tasks = Tasks(f"port-forward to {pod['metadata']['namespace']}/{pod['metadata']['name']}")
        self._http = http
        self._namespace: str = pod["metadata"]["namespace"]
        self._pod: str = pod["metadata"]["name"]
        self._ports = ports
        self._connections: dict[int, _Connection] = {}

    async def run(self, dial: Dial) -> None:
        """Connect each port and pump until the client or every port has ended."""
        for index, port in enumerate(self._ports):
            for channel in (2 * index, 2 * index + 1):
                await self.ws.send_bytes(bytes((channel,)) + port.to_bytes(2, "little"))
        try:
            for index in range(len(self._ports)):
                await self._connect(dial, 2 * index)
            if self._connections:
                ended = [connection.ended for connection in self._connections.values()]
                ends = self.tasks.start(asyncio.wait(ended), "pod"), self.tasks.start(self._to_pod(), "to pod")
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                for channel, connection in self._connections.items():
                    if connection.ended.done() and (error := connection.ended.result()) is not None:
                        await self._fail(channel, "lost the connection to the pod", error)
        finally:
            # First, for it does not wait: whoever shuts down may cancel the rest.
            for connection in self._connections.values():
                connection.close()
            await self.tasks.close()

    async def _connect(self, dial: Dial, channel: int) -> None:
        port = self._ports[channel // 2]
        loop = asyncio.get_running_loop()
        try:
            pod_socket = await dial(self._namespace, self._pod, port)
            # Listed before it stands, so that it ends with the rest however this ends.
            connection = self._connections[channel] = _Connection(self, channel)
            await loop.create_connection(lambda: connection, sock=pod_socket)
        except (OSError, TproxyError) as error:
            self._connections.pop(channel, None)
            await self._fail(channel, f"failed to connect to localhost:{port} in the pod", error)

    async def _to_pod(self) -> None:
        async for message in self.ws:
            if message.type is not WSMsgType.BINARY or not message.data:
                continue
            connection = self._connections.get(message.data[0])
            if connection is not None:
                await connection.send(memoryview(message.data)[1:])

    def to_client(self, channel: int, data: bytes) -> bool:
        """Send at once, past the coroutines of a WebSocket message; False, and nothing sent, if too much waits."""
        transport = self._http.transport
        if transport is None or self.ws.closed or transport.get_write_buffer_size() > WAITING_BYTES:
            return False
        length = 1 + len(data)
        if length < 126:
            size = bytes((length,))
        else:
            size = b"\x7e" + length.to_bytes(2) if length < 65536 else b"\x7f" + length.to_bytes(8)
        transport.write(b"".join((_BINARY_MESSAGE, size, bytes((channel,)), data)))
        return True

    async def _fail(self, channel: int, what: str, error: Exception) -> None:
        port, code = self._ports[channel // 2], error.errno if isinstance(error, OSError) else None
        why = os.strerror(code) if code else str(error)
        text = f"error forwarding port {port} to pod {self._namespace}/{self._pod}: {what}: {why.lower()}"
        await self.ws.send_bytes(bytes((channel + 1,)) + text.encode())


class _Connection(asyncio.Protocol):
    """One connection to the pod. `ended` is done when the pod's side is over, with the error if there was one."""

    _transport: asyncio.Transport | None = None

    def __init__(self, forward: _Forward, channel: int) -> None:
        self.ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self._forward = forward
        self._channel = channel
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if not self._forward.to_client(self._channel, data) and self._transport is not None:
            self._transport.pause_reading()
            self._forward.tasks.start(self._wait_and_send(data), "to a slow client")

    async def _wait_and_send(self, data: bytes) -> None:
        with contextlib.suppress(ConnectionError):  # of the client, whose end is noticed where it is read
            await self._forward.ws.send_bytes(bytes((self._channel,)) + data)
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def eof_received(self) -> None:
        """The transport closes itself: there is no half-close."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._writable.set()
        if not self.ended.done():
            self.ended.set_result(exc)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    async def send(self, data: memoryview) -> None:
        """Pass on what the client sent, and wait while the pod does not read."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)
            await self._writable.wait()

    def close(self) -> None:
        """Deliver what was written, then end."""
        if self._transport is not None:
            self._transport.close()
