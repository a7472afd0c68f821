"""An app and a local app for tests of connection pools: HTTP/1 that keeps connections, several ways to be busy.

/            GET and POST: who it is, and the body
/events      an event stream: an event now, one more when the file /tmp/<pod>.go is there
/download    8 MiB, half of it when that file is there
/ws          101, then an echo
anything that isn't HTTP: lines are echoed, as in a transaction
"""

import argparse
import asyncio
import os
from pathlib import Path

POD = os.environ.get("POD", "?")
GO = Path(f"/tmp/{POD}.go")  # noqa: S108
HALF = 4 << 20


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection."""
    try:
        while line := await reader.readline():
            if line.endswith((b"HTTP/1.1\r\n", b"HTTP/1.0\r\n")):
                await answer(line.split()[1].decode(), reader, writer)
            else:
                writer.write(f"{POD} ".encode() + line)
            await writer.drain()
    except (OSError, EOFError):
        pass
    writer.close()


async def answer(path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One request."""
    size = 0
    while (header := await reader.readline()).strip():
        name, _, value = header.partition(b":")
        if name.lower() == b"content-length":
            size = int(value)
    body = await reader.readexactly(size)
    if path == "/events":
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        await go()
        writer.write(b"data: 2\n\n")
    elif path == "/download":
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (2 * HALF) + bytes(HALF))
        await go()
        writer.write(bytes(HALF))
    elif path == "/ws":
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        while data := await reader.read(65536):
            writer.write(data)
    else:
        text = f"{POD} {len(body)}\n".encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))


async def go() -> None:
    """Wait for the file."""
    while not GO.exists():  # noqa: ASYNC110, ASYNC240 - made by another process, and a look takes no time
        await asyncio.sleep(0.02)


async def main(port: int) -> None:
    """Serve for ever."""
    server = await asyncio.start_server(serve, None, port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    asyncio.run(main(parser.parse_args().port))
