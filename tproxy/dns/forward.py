"""The laptop's own resolvers: a query goes to them as it is, and the answer comes back as it is."""

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import cast

from tproxy.connecting import connect
from tproxy.dns import wire
from tproxy.model.resolv_conf import MAX_BYTES, ResolvConf, parse_resolv_conf

TRY_SECONDS = 2.0
TRIES = 2

MakeSocket = Callable[[int, int], Awaitable[socket.socket]]
"""An unconnected, non-blocking socket of a family and a kind. Raises OSError."""


class LaptopResolvers:
    """The resolvers that a resolv.conf names; the file is read again when it changes."""

    def __init__(self, path: str = "/etc/resolv.conf", make: MakeSocket | None = None) -> None:
        """`make` makes the sockets, where not any will do."""
        self._path = path
        self._make = make or _make
        self._stamp: tuple[int, int] | None = None
        self._configuration = ResolvConf()

    @property
    def configuration(self) -> ResolvConf:
        """What the file says now. Without one, what the C library then takes: a resolver on the machine itself."""
        try:
            found = os.stat(self._path)
            stamp = (found.st_ino, found.st_mtime_ns)
            if stamp != self._stamp:
                with open(self._path, encoding="utf-8", errors="replace") as file:
                    self._configuration = parse_resolv_conf(file.read(MAX_BYTES))
                self._stamp = stamp
        except OSError:
            self._stamp, self._configuration = None, ResolvConf()
        return self._configuration

    async def query(self, message: bytes, tcp: bool) -> bytes:
        """The answer of the first resolver that gives one. Raises TimeoutError, and OSError if none can be reached."""
        failure: OSError = TimeoutError("no resolver has answered")
        for _ in range(TRIES):
            for server in self.configuration.nameservers or ("127.0.0.1",):
                try:
                    async with asyncio.timeout(TRY_SECONDS):
                        return await (_by_tcp if tcp else _by_udp)(self._make, server, message)
                except OSError as error:  # TimeoutError is one
                    failure = error
        raise failure


class _Waiting(asyncio.DatagramProtocol):
    def __init__(self, message: bytes) -> None:
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._message = message
        self._question = wire.question(message)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.DatagramTransport, transport).sendto(self._message)

    def datagram_received(self, data: bytes, addr: object) -> None:
        if not self.answer.done() and _answers(self._message, self._question, data):
            self.answer.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc)


async def _make(family: int, kind: int) -> socket.socket:
    made = socket.socket(family, kind)
    made.setblocking(False)
    return made


async def _connected(make: MakeSocket, server: str, kind: int) -> socket.socket:
    sock = await make(socket.AF_INET6 if ":" in server else socket.AF_INET, kind)
    try:
        await connect(sock, (server, 53))
    except BaseException:
        sock.close()
        raise
    return sock


async def _by_udp(make: MakeSocket, server: str, message: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    # A socket of its own for each query: its random port is what makes answers hard to forge (RFC 5452).
    sock = await _connected(make, server, socket.SOCK_DGRAM)
    transport, waiting = await loop.create_datagram_endpoint(lambda: _Waiting(message), sock=sock)
    try:
        return await waiting.answer
    finally:
        transport.close()


async def _by_tcp(make: MakeSocket, server: str, message: bytes) -> bytes:
    question = wire.question(message)
    reader, writer = await asyncio.open_connection(sock=await _connected(make, server, socket.SOCK_STREAM))
    try:
        writer.write(struct.pack("!H", len(message)) + message)
        (length,) = struct.unpack("!H", await reader.readexactly(2))
        answer = await reader.readexactly(length)
    except asyncio.IncompleteReadError as error:
        raise ConnectionResetError("the resolver closed the connection") from error
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    if not _answers(message, question, answer):
        raise ConnectionResetError("the resolver answered something else")
    return answer


def _answers(message: bytes, question: wire.Question, data: bytes) -> bool:
    if len(data) < wire.HEADER or data[:2] != message[:2] or wire.is_query(data):
        return False
    try:
        asked = wire.question(data)
    except wire.MalformedError:
        # Some answer errors, FORMERR above all, without repeating the question.
        return wire.rcode(data) != wire.NOERROR
    return (asked.name, asked.kind, asked.cls) == (question.name, question.kind, question.cls)
