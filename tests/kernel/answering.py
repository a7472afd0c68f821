"""Servers that say who they are and whom they see, and clients that ask."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import cast

from tests.kernel.namespaces import Namespace, until
from tproxy.model.flow import Address
from tproxy.steer.port import Attachment

PORT = 8080
CLIENT = Address("192.0.2.1", 4242)
"""Whom an upstream connection is made for, where a test does not care."""
# asyncio calls listen() again, by default with 100, and the kernel then drops handshakes of a busy test.
BACKLOG = 4096


@dataclass(frozen=True)
class Answer:
    """`destination` and `source` as the server's socket has them, with mapped addresses as they are."""

    who: str
    destination: str
    source: str


async def answer(reader: asyncio.StreamReader) -> Answer:
    """The greeting of a server."""
    line = await reader.readline()
    if not line:
        raise ConnectionResetError("closed without an answer")
    return Answer(*line.decode().split())


class _Greeter(asyncio.Protocol):
    """The server's side of a connection."""

    def __init__(self, who: str, connections: set[asyncio.Transport]) -> None:
        self._who = who
        self._connections = connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without inheriting from it
        self._connections.add(self._transport)
        names = [endpoint(*transport.get_extra_info(name)[:2]) for name in ("sockname", "peername")]
        transport.write(" ".join([self._who, *names]).encode() + b"\n")

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self._transport)


@contextlib.asynccontextmanager
async def serving(who: str, listeners: Iterable[socket.socket]) -> AsyncIterator[None]:
    """Greet as `who` on these listeners, then echo. The listeners stay the caller's."""
    loop = asyncio.get_running_loop()
    connections: set[asyncio.Transport] = set()
    servers = [
        # asyncio closes the sockets that it serves on.
        await loop.create_server(lambda: _Greeter(who, connections), sock=listener.dup(), backlog=BACKLOG)
        for listener in listeners
    ]
    try:
        yield
    finally:
        for server in servers:
            server.close()
        for transport in list(connections):
            transport.abort()
        await until(lambda: not connections)


async def closed(writer: asyncio.StreamWriter) -> None:
    """Close a stream and wait until it is."""
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def ask(place: Namespace, host: str, port: int = PORT, source: tuple[str, int] | None = None) -> Answer | None:
    """Who answers at `host`, asked from `place`; None if the connection is refused."""
    try:
        sock = await place.connect(host, port, source)
    except ConnectionRefusedError:
        return None
    reader, writer = await asyncio.open_connection(sock=sock)
    try:
        async with asyncio.timeout(5):
            return await answer(reader)
    finally:
        await closed(writer)


async def ask_upstream(attachment: Attachment, host: str) -> Answer | None:
    """Who answers to the relay's own connection to `host`."""
    try:
        sock = attachment.upstream(CLIENT, Address(host, PORT))
    except ConnectionRefusedError:
        return None
    try:
        await asyncio.get_running_loop().sock_connect(sock, (host, PORT))
        reader, writer = await asyncio.open_connection(sock=sock)
        found = await answer(reader)
        await closed(writer)
        return found
    except ConnectionRefusedError:
        return None
    finally:
        attachment.release(sock)


def endpoint(host: str, port: int) -> str:
    """How `Answer` writes an address."""
    return f"{host}|{port}"
