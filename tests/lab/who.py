"""A server for tests of personal intercepts: each answer says who gives it and whose request it was.

GET, POST, ...    `NAME USER\n`: the server's name, and the request's x-user header or -; with a body its x-size header,
                  if any, and how long the body is
/slow             the same, a second later
/ws               a WebSocket that echoes, after saying who it is
"""

import argparse
import asyncio
import contextlib
import os

from aiohttp import WSMsgType, web

NAME = os.environ.get("POD", "?")


async def answer(request: web.Request) -> web.Response:
    """Say who and whose."""
    body = await request.read()
    if request.path == "/slow":
        await asyncio.sleep(1)
    said = [NAME, request.headers.get("x-user", "-"), request.headers.get("x-size"), str(len(body)) if body else None]
    return web.Response(text=" ".join(filter(None, said)) + "\n")


async def echo(request: web.Request) -> web.WebSocketResponse:
    """Echo."""
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    await socket.send_str(NAME)
    async for message in socket:
        if message.type == WSMsgType.TEXT:
            await socket.send_str(message.data)
    return socket


async def events(request: web.Request) -> web.StreamResponse:
    """Three events, then as good as silence until the client goes."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for number in range(3):
        await response.write(f"data: {NAME} {number}\n\n".encode())
    with contextlib.suppress(ConnectionError):
        while True:
            await asyncio.sleep(0.2)
            await response.write(b":\n")
    return response


def main(port: int) -> None:
    """Serve on every address until ended."""
    app = web.Application(client_max_size=1 << 24)
    app.add_routes([web.get("/ws", echo), web.get("/events", events), web.route("*", "/{path:.*}", answer)])
    web.run_app(app, port=port, print=None, access_log=None, shutdown_timeout=0.1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    main(parser.parse_args().port)
