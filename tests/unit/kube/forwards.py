"""Port-forwards to try things with, and the servers they lead to: aiohttp's, and a raw one for bad manners."""

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import WSMsgType, web

from tests.unit.kube.server import ApiServer, Handler, config_of, serving
from tproxy.kube.api import ApiCluster
from tproxy.kube.portforward import PortForward

PATH = "/api/v1/namespaces/shop/pods/node/portforward"
PORT = 4770

Pod = Callable[[web.WebSocketResponse], Awaitable[None]]
Run = Callable[[Coroutine[Any, Any, None]], None]


def kubelet(pod: Pod) -> Handler:
    """A port-forward endpoint: port numbers first, then `pod`, then closed."""

    async def handle(request: web.Request) -> web.StreamResponse:
        assert request.query["ports"] == str(PORT)
        # Behind the API server the kubelet and the runtime have nothing to offer of any one type: they say 406.
        assert request.headers["Accept"] == "*/*"
        ws = web.WebSocketResponse(protocols=("v4.channel.k8s.io",), max_msg_size=1 << 20)
        await ws.prepare(request)
        for channel in (0, 1):
            await ws.send_bytes(bytes([channel]) + PORT.to_bytes(2, "little"))
        await pod(ws)
        await ws.close()
        return ws

    return handle


async def echo(ws: web.WebSocketResponse) -> None:
    async for message in ws:
        assert message.type is WSMsgType.BINARY
        await ws.send_bytes(message.data)


@asynccontextmanager
async def forwarding(
    directory: Path, pod: Pod = echo, answer: Handler | None = None
) -> AsyncIterator[tuple[ApiServer, PortForward, str]]:
    """A server whose pod's port behaves like `pod`, a forward to it, and the path of its socket."""
    async with serving() as server:
        server.answers["GET", PATH] = answer or kubelet(pod)
        cluster = ApiCluster(config_of(server))
        forward = PortForward(cluster, "shop", "node", PORT, directory / "forwards")
        try:
            yield server, forward, await forward.start()
        finally:
            await forward.close()
            await cluster.close()


def frame(opcode: int, payload: bytes) -> bytes:
    return bytes([0x80 | opcode, len(payload)]) + payload


@asynccontextmanager
async def raw(directory: Path, *parts: bytes) -> AsyncIterator[tuple[PortForward, str, list[bytes]]]:
    """A server that sends the head of the upgrade and then `parts`, all in one write, and collects what it gets."""
    got: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        (key,) = (line for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key: "))
        digest = hashlib.sha1(key.partition(b": ")[2] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", usedforsecurity=False)
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n"
            b"Sec-WebSocket-Accept: " + base64.b64encode(digest.digest()) + b"\r\n\r\n" + b"".join(parts)
        )
        while data := await reader.read(65536):
            got.append(data)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    api = ApiServer(url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    cluster = ApiCluster(config_of(api))
    forward = PortForward(cluster, "shop", "node", PORT, directory / "forwards")
    try:
        yield forward, await forward.start(), got
    finally:
        await forward.close()
        await cluster.close()
        server.close()
        await server.wait_closed()


PORTS = frame(2, b"\x00" + PORT.to_bytes(2, "little")) + frame(2, b"\x01" + PORT.to_bytes(2, "little"))
