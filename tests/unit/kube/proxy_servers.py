"""Proxies that know where `api.test` is: by HTTP's CONNECT, also in TLS, and by SOCKS5 (RFC 1928 and 1929)."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

CONNECT, IPV4, NAME = 1, 1, 3
NO_LOGIN, LOGIN, NONE_OF_THESE = 0, 2, 255


@asynccontextmanager
async def http_proxy(port: int, tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[str, list[bytes]]]:
    """An HTTP proxy to `port`; its address, and the heads of requests it got."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        onward = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await _join(reader, writer, *onward)

    async with _listening(serve, tls) as own:
        yield f"127.0.0.1:{own}", heads


@dataclass
class Socks:
    """A SOCKS5 proxy to one port. `asked`: hosts and ports it was asked for, `logins` what came with that. `login`:
    only who has that is served; `refusal`: the reply code to answer instead of serving.
    """

    address: str = ""
    login: tuple[str, str] | None = None
    refusal: int = 0
    asked: list[tuple[str, int]] = field(default_factory=list)
    logins: list[tuple[str, str]] = field(default_factory=list)


@asynccontextmanager
async def socks_proxy(port: int, login: tuple[str, str] | None = None, refusal: int = 0) -> AsyncIterator[Socks]:
    """A SOCKS5 proxy to `port`, whatever it is asked for."""
    proxy = Socks(login=login, refusal=refusal)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if await _greeted(proxy, reader, writer):
                onward = await asyncio.open_connection("127.0.0.1", port)
                writer.write(bytes((5, 0, 0, IPV4)) + bytes(6))
                await _join(reader, writer, *onward)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    async with _listening(serve) as own:
        proxy.address = f"127.0.0.1:{own}"
        yield proxy


async def _greeted(proxy: Socks, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Speak SOCKS until a connection is due; False if none is."""
    version, count = await reader.readexactly(2)
    assert version == 5
    offered = await reader.readexactly(count)
    method = NO_LOGIN if proxy.login is None else LOGIN if LOGIN in offered else NONE_OF_THESE
    assert method in (*offered, NONE_OF_THESE)
    writer.write(bytes((5, method)))
    if method == NONE_OF_THESE:
        return False
    if method == LOGIN:
        assert await reader.readexactly(1) == b"\1"
        user = await reader.readexactly((await reader.readexactly(1))[0])
        password = await reader.readexactly((await reader.readexactly(1))[0])
        proxy.logins.append((user.decode(), password.decode()))
        good = proxy.logins[-1] == proxy.login
        writer.write(bytes((1, not good)))
        if not good:
            return False
    version, command, _, kind = await reader.readexactly(4)
    assert (version, command) == (5, CONNECT)
    if kind == NAME:
        host = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
    else:
        family, size = (socket.AF_INET, 4) if kind == IPV4 else (socket.AF_INET6, 16)
        host = socket.inet_ntop(family, await reader.readexactly(size))
    proxy.asked.append((host, int.from_bytes(await reader.readexactly(2))))
    if proxy.refusal:
        writer.write(bytes((5, proxy.refusal, 0, IPV4)) + bytes(6))
    return not proxy.refusal


@asynccontextmanager
async def _listening(serve: object, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)  # type: ignore[arg-type]
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def _join(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    onward_reader: asyncio.StreamReader,
    onward_writer: asyncio.StreamWriter,
) -> None:
    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while got := await source.read(65536):
                sink.write(got)
                await sink.drain()
        sink.close()

    await asyncio.gather(pump(reader, onward_writer), pump(onward_reader, writer))
