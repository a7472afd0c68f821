"""Port-forward over a WebSocket, as the kubelet speaks it (`v4.channel.k8s.io`).

Every message starts with a channel byte: for the n-th port, 2n carries data both ways and 2n+1 error text to the
client. The first message of each channel is the port number, two bytes, little endian. There is no half-close: when
the pod's side ends, or the connect fails, that is said and the WebSocket is closed once all ports have ended.
"""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable

from aiohttp import ClientConnectionResetError, WSMsgType, web

from tproxy.kube.port import Object
from tproxy.lab.api.errors import BadRequestError
from tproxy.tasks import Tasks

Dial = Callable[[str, str, int], Awaitable[socket.socket]]
"""namespace, pod, port -> a connected socket inside the pod's namespace. Raises OSError."""

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
    metadata = pod["metadata"]
    try:
        for channel, port in enumerate(port for port in ports for _ in ("data", "error")):
            await ws.send_bytes(bytes((channel,)) + port.to_bytes(2, "little"))
        await _forward(ws, dial, metadata["namespace"], metadata["name"], ports)
    except (ClientConnectionResetError, ConnectionResetError):
        return ws
    await ws.close()
    return ws


async def _forward(ws: web.WebSocketResponse, dial: Dial, namespace: str, pod: str, ports: list[int]) -> None:
    """Connect each port and pump until the client or all ports have ended."""
    pod_sockets: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as stack:
        for channel, port in enumerate(ports):
            try:
                pod_sockets[2 * channel] = stack.enter_context(await dial(namespace, pod, port))
            except OSError as error:
                text = f"error forwarding port {port} to pod {pod}: failed to connect: {error}"
                await ws.send_bytes(bytes((2 * channel + 1,)) + text.encode())
        tasks = Tasks(f"port-forward {namespace}/{pod}")
        ends = [tasks.start(_to_client(ws, channel, sock), str(channel)) for channel, sock in pod_sockets.items()]
        from_client = tasks.start(_to_pod(ws, pod_sockets), "client")
        try:
            if ends:
                await asyncio.wait([asyncio.gather(*ends), from_client], return_when=asyncio.FIRST_COMPLETED)
        finally:
            await tasks.close()


async def _to_pod(ws: web.WebSocketResponse, pod_sockets: dict[int, socket.socket]) -> None:
    loop = asyncio.get_running_loop()
    async for message in ws:
        if message.type is not WSMsgType.BINARY or not message.data:
            continue
        if (pod_socket := pod_sockets.get(message.data[0])) is not None:
            await loop.sock_sendall(pod_socket, memoryview(message.data)[1:])


async def _to_client(ws: web.WebSocketResponse, channel: int, pod_socket: socket.socket) -> None:
    loop, prefix = asyncio.get_running_loop(), bytes((channel,))
    while data := await loop.sock_recv(pod_socket, CHUNK_BYTES):
        await ws.send_bytes(prefix + data)
