"""A server fast enough to measure what stands in front of it: `/` is small, `/bytes/N` is N bytes.

It parses no more of HTTP than the benchmark's own clients send, keeps connections alive and pipelines.
"""

import argparse
import asyncio
import contextlib
from typing import cast

import uvloop

SMALL = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\nhello\n"
CHUNK = bytes(256 * 1024)


class Server(asyncio.Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no asyncio.Transport to isinstance().
        self._transport = cast(asyncio.Transport, transport)
        self._pending = b""
        self._left = 0
        self._writable = True

    def data_received(self, data: bytes) -> None:
        self._pending += data
        while (end := self._pending.find(b"\r\n\r\n")) >= 0:
            head, self._pending = self._pending[:end], self._pending[end + 4 :]
            path = head.split(b" ", 2)[1]
            if path.startswith(b"/bytes/"):
                self._left = int(path[7:])
                self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % self._left)
                self._fill()
            else:
                self._transport.write(SMALL)
                if b"Connection: close" in head:
                    self._transport.close()

    def _fill(self) -> None:
        while self._left and self._writable:
            size = min(self._left, len(CHUNK))
            self._left -= size
            self._transport.write(CHUNK if size == len(CHUNK) else CHUNK[:size])

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self._fill()


async def main(port: int) -> None:
    """Serve on every address until ended."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Server, None, port, backlog=4096)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(main(parser.parse_args().port))
