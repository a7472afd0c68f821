"""A server for tests of what laptops reach in the cluster: by UDP, by WebSocket, with many bytes, by IPv6 alone.

UDP 9000          every datagram back
HTTP 8080         /            who is asked, and by whom
                  /bytes/N     N bytes, with their SHA-256 in the header X-Sum
                  /ws          a WebSocket that says everything twice
HTTP 8086         the same on [::] without IPv4
"""

import asyncio
import hashlib
import os
import socket

from aiohttp import web

from tests.lab.many import payload

POD = os.environ.get("POD", "?")


class Echo(asyncio.DatagramProtocol):
    """Sends back."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: object) -> None:
        self._transport.sendto(data, addr)  # type: ignore[attr-defined]


async def who(request: web.Request) -> web.Response:
    return web.Response(text=f"{POD} {request.remote}\n")


async def many_bytes(request: web.Request) -> web.StreamResponse:
    size = int(request.match_info["size"])
    total = hashlib.sha256()
    for block in payload(size):
        total.update(block)
    response = web.StreamResponse(headers={"X-Sum": total.hexdigest(), "Content-Length": str(size)})
    await response.prepare(request)
    for block in payload(size):
        await response.write(block)
    return response


async def twice(request: web.Request) -> web.WebSocketResponse:
    socket_ = web.WebSocketResponse()
    await socket_.prepare(request)
    async for message in socket_:
        await socket_.send_str(message.data * 2)
    return socket_


async def main() -> None:
    loop = asyncio.get_running_loop()
    datagrams = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    datagrams.bind(("::", 9000))
    await loop.create_datagram_endpoint(Echo, sock=datagrams)
    app = web.Application()
    app.add_routes([web.get("/", who), web.get("/bytes/{size}", many_bytes), web.get("/ws", twice)])
    runner = web.AppRunner(app)
    await runner.setup()
    for port, only in ((8080, 0), (8086, 1)):
        listener = socket.socket(socket.AF_INET6)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
        listener.bind(("::", port))
        await web.SockSite(runner, listener, backlog=1024).start()
    print(f"{POD} serves", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
