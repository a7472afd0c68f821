"""Answers programs' queries, by UDP and TCP, on sockets that are given. Who knows the answer is others' matter."""

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import cast

from tproxy.dns import wire
from tproxy.dns.wire import Question
from tproxy.tasks import Tasks

log = logging.getLogger(__name__)

MOST_QUERIES = 1024
"""Under way at a time; one more is dropped, as a full buffer would, and the program asks again."""

MOST_CLIENTS = 256
IDLE_SECONDS = 10.0

Ask = Callable[[bytes, Question, bool], Awaitable[bytes]]
"""The answer to a query, which asks that, and came by TCP or not. Raises TimeoutError for none; any other error is
SERVFAIL."""


class DnsServer:
    """Serves until `close`."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._queries = 0
        self._clients = 0
        self._tasks = Tasks("dns")
        self._transport: asyncio.DatagramTransport | None = None
        self._server: asyncio.Server | None = None

    async def serve(self, datagrams: socket.socket, listener: socket.socket) -> None:
        """Answer on a bound UDP socket and on a listening TCP socket, which it takes over."""
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self._by_udp), sock=datagrams)
        self._transport = transport
        self._server = await asyncio.start_server(self.client, sock=listener, backlog=MOST_CLIENTS)

    async def close(self) -> None:
        """Close the sockets."""
        if self._transport is not None:
            self._transport.close()
        if self._server is not None:
            self._server.close()
        await self._tasks.close()

    def _by_udp(self, query: bytes, client: tuple[str, int]) -> None:
        if self._queries < MOST_QUERIES and wire.is_query(query):
            self._queries += 1
            self._tasks.start(self._answer_udp(query, client), "query")

    async def _answer_udp(self, query: bytes, client: tuple[str, int]) -> None:
        try:
            answer = await self.answer(query, False)
            if answer is not None and self._transport is not None and not self._transport.is_closing():
                self._transport.sendto(wire.for_udp(query, answer), client)
        finally:
            self._queries -= 1

    async def client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer on one TCP connection, until the program has no more questions."""
        if self._clients >= MOST_CLIENTS:
            writer.close()
            return
        self._clients += 1
        try:
            while True:
                async with asyncio.timeout(IDLE_SECONDS):
                    (length,) = struct.unpack("!H", await reader.readexactly(2))
                    query = await reader.readexactly(length)
                answer = await self.answer(query, True)
                if answer is None:
                    return
                writer.write(struct.pack("!H", len(answer)) + answer)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            return
        finally:
            self._clients -= 1
            writer.close()

    async def answer(self, query: bytes, tcp: bool) -> bytes | None:
        """The answer; None for none at all."""
        try:
            return await self._ask(query, wire.question(query), tcp)
        except wire.MalformedError:
            return None
        except TimeoutError:
            return None
        except Exception as error:
            log.info("no answer to a query: %s", error)
            with contextlib.suppress(wire.MalformedError):
                return wire.answer_without_records(query, wire.SERVFAIL)
        return None


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, on_query: Callable[[bytes, tuple[str, int]], None]) -> None:
        self._on_query = on_query

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._on_query(data, addr)

    def error_received(self, exc: Exception) -> None:
        """A client that is gone."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)
