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

from aiohttp import WSMsgType, web

from tproxy.errors import TproxyError
from tproxy.kube.port import Object
from tproxy.lab.api.errors import BadRequestError
from tproxy.tasks import Tasks

Dial = Callable[[str, str, int], Awaitable[socket.socket]]
"""namespace, pod, port -> a connected socket inside the pod's namespace. Raises OSError or TproxyError."""

SUBPROTOCOLS = ("v4.channel.k8s.io", "portforward.k8s.io")
CHUNK_BYTES = 256 * 1024
MAX_MESSAGE_BYTES = 4 * 1024 * 1024


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
    ports = requested_ports(http)
    phase = pod.get("status", {}).get("phase", "Unknown")
    if phase != "Running":
        raise BadRequestError(f"unable to forward port because pod is not running. Current status={phase}")
    ws = web.WebSocketResponse(protocols=SUBPROTOCOLS, compress=False, max_msg_size=MAX_MESSAGE_BYTES)
    if not ws.can_prepare(http):
        raise BadRequestError("Upgrade request required: the lab forwards ports over WebSockets only")
    await ws.prepare(http)
    forward = _Forward(ws, pod["metadata"]["namespace"], pod["metadata"]["name"], ports)
    with contextlib.suppress(ConnectionResetError):  # the client has gone
        await forward.run(dial)
        await ws.close()
    return ws


class _Forward:
    """One WebSocket and the pod's sockets behind it, by data channel.

    Nothing is queued here: each direction reads on only when the other side has taken what was read before.
    """

    def __init__(self, ws: web.WebSocketResponse, namespace: str, pod: str, ports: list[int]) -> None:
        self._ws = ws
        self._namespace = namespace
        self._pod = pod
        self._ports = ports
        self._sockets: dict[int, socket.socket] = {}

    async def run(self, dial: Dial) -> None:
        """Connect each port and pump until the client or every port has ended."""
        tasks = Tasks(f"port-forward to {self._namespace}/{self._pod}")
        for index, port in enumerate(self._ports):
            for channel in (2 * index, 2 * index + 1):
                await self._ws.send_bytes(bytes((channel,)) + port.to_bytes(2, "little"))
        try:
            for index, port in enumerate(self._ports):
                try:
                    self._sockets[2 * index] = await dial(self._namespace, self._pod, port)
                except (OSError, TproxyError) as error:
                    await self._fail(2 * index, f"failed to connect to localhost:{port} in the pod", error)
            if self._sockets:
                to_client = [tasks.start(self._to_client(*item), "to client") for item in self._sockets.items()]
                ends = tasks.start(asyncio.wait(to_client), "pod"), tasks.start(self._to_pod(), "to pod")
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await tasks.close()
            for pod_socket in self._sockets.values():
                pod_socket.close()

    async def _to_pod(self) -> None:
        loop = asyncio.get_running_loop()
        async for message in self._ws:
            if message.type is not WSMsgType.BINARY or not message.data:
                continue
            pod_socket = self._sockets.get(message.data[0])
            if pod_socket is not None:
                # A pod that takes nothing more says so where it is read: `_to_client` ends the port.
                with contextlib.suppress(OSError):
                    await loop.sock_sendall(pod_socket, memoryview(message.data)[1:])

    async def _to_client(self, channel: int, pod_socket: socket.socket) -> None:
        loop, prefix = asyncio.get_running_loop(), bytes((channel,))
        with contextlib.suppress(ConnectionResetError):  # of the client; the pod's errors are told to it
            while data := await self._read(loop.sock_recv(pod_socket, CHUNK_BYTES), channel):
                await self._ws.send_bytes(prefix + data)

    async def _read(self, reading: Awaitable[bytes], channel: int) -> bytes:
        try:
            return await reading
        except OSError as error:
            await self._fail(channel, "lost the connection to the pod", error)
            return b""

    async def _fail(self, channel: int, what: str, error: Exception) -> None:
        port, code = self._ports[channel // 2], error.errno if isinstance(error, OSError) else None
        why = os.strerror(code) if code else str(error)
        text = f"error forwarding port {port} to pod {self._namespace}/{self._pod}: {what}: {why.lower()}"
        await self._ws.send_bytes(bytes((channel + 1,)) + text.encode())
