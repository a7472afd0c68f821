"""A server for tests that is asked for more than a page: the first line of a connection says what it is to do.

GET / HTTP/1.1    who it is, connection kept
ECHO              everything that follows, back
BYTES n           n bytes of `payload`
SUM n             the SHA-256 of the n bytes that follow
DEAF              nothing is read any more
"""

import argparse
import asyncio
import hashlib
import os
from collections.abc import Iterator
from typing import cast

import uvloop

POD = os.environ.get("POD", "?")
ANSWER = f"{POD}\n".encode()
PAGE = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(ANSWER), ANSWER)
BLOCK = 1 << 18
_NOISE = hashlib.shake_256(b"tproxy").digest(BLOCK)

DEAF: list["Server"] = []


def payload(size: int) -> Iterator[bytes]:
    """The same bytes each time, no two blocks alike."""
    for offset in range(0, size, BLOCK):
        block = offset.to_bytes(8, "big") + _NOISE[8:]
        yield block if size - offset >= BLOCK else block[: size - offset]


class Server(asyncio.Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no asyncio.Transport to isinstance().
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=BLOCK)
        self._handle = self._command
        self._line = b""
        self._blocks: Iterator[bytes] = iter(())
        self._paused = False

    def data_received(self, data: bytes) -> None:
        self._handle(data)

    def _command(self, data: bytes) -> None:
        self._line += data
        while b"\n" in self._line:
            line, _, rest = self._line.partition(b"\n")
            match line.decode().split():
                case ["GET", *_]:
                    if b"\r\n\r\n" not in self._line:
                        return
                    self._line = self._line.partition(b"\r\n\r\n")[2]
                    self._transport.write(PAGE)
                    continue
                case ["ECHO"]:
                    self._handle = self._transport.write
                case ["BYTES", size]:
                    self._handle = self._ignore
                    self._blocks = payload(int(size))
                    self._fill()
                case ["SUM", size]:
                    self._left, self._sum = int(size), hashlib.sha256()
                    self._handle = self._add
                case ["DEAF"]:
                    self._handle = self._ignore
                    # A paused transport is known to nobody else: the garbage collector would end the connection.
                    DEAF.append(self)
                    self._transport.pause_reading()
                case _:
                    self._transport.abort()
            self._handle(rest)
            return

    def _ignore(self, data: bytes) -> None:
        """Nothing is expected."""

    def _add(self, data: bytes) -> None:
        self._sum.update(data)
        self._left -= len(data)
        if not self._left:
            self._transport.write(self._sum.hexdigest().encode() + b"\n")

    def _fill(self) -> None:
        while not self._paused and (block := next(self._blocks, None)) is not None:
            self._transport.write(block)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._fill()


async def main(ports: list[int]) -> None:
    """Serve on every address until ended."""
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(Server, None, port, backlog=4096) for port in ports]
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, action="append", required=True)
    uvloop.run(main(parser.parse_args().port))
