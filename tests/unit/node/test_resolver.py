"""A pod's resolver against servers on the loopback: the quick way, and what happens when that is not enough."""

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import cast

import pytest
from tproxy_node.dial import resolver as room
from tproxy_node.dial.failure import DialError
from tproxy_node.dial.resolver import Resolver

from tproxy.dns import wire
from tproxy.model.resolv_conf import parse_resolv_conf

QUERY = wire.make_query("web.shop.svc.cluster.local", wire.A, number=7)
END = wire.question(QUERY).end

Says = Callable[[bytes], list[bytes]]
"""What a server sends for a query."""


def says(code: int = wire.NXDOMAIN, change: Callable[[bytes], bytes] = lambda answer: answer) -> Says:
    """An answer without records."""
    return lambda query: [change(wire.answer_without_records(query, code))]


def asks_for(kind: int) -> Callable[[bytes], bytes]:
    """An answer to a question of another type."""
    return lambda answer: answer[: END - 4] + struct.pack("!HH", kind, 1) + answer[END:]


class Server(asyncio.DatagramProtocol):
    """A DNS server."""

    def __init__(self, says: Says) -> None:
        self.asked: list[bytes] = []
        self._says = says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.asked.append(data)
        for answer in self._says(data):
            self._transport.sendto(answer, addr)

    async def by_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Says that there is nothing."""
        (length,) = struct.unpack("!H", await reader.readexactly(2))
        answer = wire.answer_without_records(await reader.readexactly(length), wire.NOERROR)
        writer.write(struct.pack("!H", len(answer)) + answer)
        writer.close()


@asynccontextmanager
async def asking(monkeypatch: pytest.MonkeyPatch, *servers: Says, options: str = "") -> AsyncIterator["Asking"]:
    """A resolver, and its servers at 127.0.0.1 and following addresses."""
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(room, "FIRST_SECONDS", 0.3)
    made: list[Server] = []
    transports: list[asyncio.BaseTransport] = []
    with socket.create_server(("127.0.0.1", 0)) as chosen:
        port = chosen.getsockname()[1]
    monkeypatch.setattr(room, "PORT", port)
    listeners = []
    for number, one in enumerate(servers):
        made.append(Server(one))
        address = (f"127.0.0.{number + 1}", port)
        transport, _ = await loop.create_datagram_endpoint(partial(lambda server: server, made[-1]), local_addr=address)
        transports.append(transport)
        listeners.append(await asyncio.start_server(made[-1].by_tcp, *address))
    text = "".join(f"nameserver 127.0.0.{number + 1}\n" for number in range(max(1, len(servers))))
    configuration = parse_resolv_conf(f"{text}options timeout:1 attempts:2 {options}\n")
    made_resolver = Resolver(socket.socket, configuration, random.Random(1))
    try:
        yield Asking(made_resolver, made)
    finally:
        made_resolver.close()
        for transport in transports:
            transport.close()
        for listener in listeners:
            listener.close()


class Asking:
    """What a test holds."""

    def __init__(self, resolver: Resolver, servers: list[Server]) -> None:
        self.resolver, self.servers = resolver, servers

    async def attempt(self) -> bytes | OSError | None:
        """What the first attempt comes to."""
        told: asyncio.Future[bytes | OSError | None] = asyncio.get_running_loop().create_future()
        self.resolver.attempt(QUERY, END, told.set_result)
        return await asyncio.wait_for(told, 5)


@pytest.mark.parametrize(
    "change",
    [lambda answer: answer, lambda answer: answer.replace(b"shop", b"SHOP"), lambda answer: answer[:4] + bytes(8)],
    ids=["as it is", "in capitals", "without the question"],
)
def test_the_first_attempt_is_enough(monkeypatch: pytest.MonkeyPatch, change: Callable[[bytes], bytes]) -> None:
    async def main() -> None:
        async with asking(monkeypatch, says(change=change)) as there:
            answer = await there.attempt()
            assert isinstance(answer, bytes)
            assert (answer[:2], wire.rcode(answer)) == (QUERY[:2], wire.NXDOMAIN)
            assert there.resolver.good(answer)
            assert there.servers[0].asked[0][:2] != QUERY[:2]  # under a number of the node's own

    asyncio.run(main())


@pytest.mark.parametrize(
    "change",
    [
        asks_for(wire.AAAA),
        asks_for(wire.A + 32),
        lambda answer: answer.replace(b"shop", b"shod"),
        lambda answer: bytes((answer[0] ^ 1,)) + answer[1:],
        lambda answer: answer[:3] + b"\x80" + bytes(8),
        lambda answer: answer[:11],
        lambda answer: answer[: END - 2],
        lambda answer: answer[:2] + b"\0" + answer[3:],
    ],
    ids=["type", "type like a letter", "name", "number", "no question", "too short", "cut off", "a query"],
)
def test_answers_to_something_else_are_passed_over(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[bytes], bytes]
) -> None:
    def both(query: bytes) -> list[bytes]:
        return [*says(wire.NXDOMAIN, change)(query), *says(wire.NOERROR)(query)]

    async def main() -> None:
        async with asking(monkeypatch, both) as there:
            answer = await there.attempt()
            assert isinstance(answer, bytes)
            assert wire.rcode(answer) == wire.NOERROR

    asyncio.run(main())


def test_who_has_failed_is_followed_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not asked again before that one."""

    async def main() -> None:
        async with asking(monkeypatch, says(wire.SERVFAIL), says(wire.NXDOMAIN)) as there:
            first = await there.attempt()
            assert isinstance(first, bytes)
            assert not there.resolver.good(first)
            assert wire.rcode(await there.resolver.query(QUERY, first)) == wire.NXDOMAIN
            assert [len(server.asked) for server in there.servers] == [1, 1]

    asyncio.run(main())


def test_who_is_silent_is_followed_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with asking(monkeypatch, lambda _query: [], says(wire.NXDOMAIN)) as there:
            first = await there.attempt()
            assert isinstance(first, TimeoutError)
            assert wire.rcode(await there.resolver.query(QUERY, first)) == wire.NXDOMAIN

    asyncio.run(main())


def test_what_does_not_fit_comes_by_tcp(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        cut = says(change=lambda answer: answer[:2] + bytes((answer[2] | 0x02,)) + answer[3:])
        async with asking(monkeypatch, cut) as there:
            first = await there.attempt()
            assert isinstance(first, bytes)
            assert not there.resolver.good(first)
            assert wire.rcode(await there.resolver.query(QUERY, first)) == wire.NOERROR
            assert len(there.servers[0].asked) == 1

    asyncio.run(main())


def test_nobody_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with asking(monkeypatch) as there:
            first = await there.attempt()
            assert isinstance(first, ConnectionRefusedError)
            with pytest.raises(DialError):
                await there.resolver.query(QUERY, first)

    asyncio.run(main())


@pytest.mark.parametrize("options", ["rotate", "use-vc"])
def test_what_the_quick_way_is_not_for(monkeypatch: pytest.MonkeyPatch, options: str) -> None:
    async def main() -> None:
        async with asking(monkeypatch, says(wire.NOERROR), options=options) as there:
            assert await there.attempt() is None
            assert wire.rcode(await there.resolver.query(QUERY, None)) == wire.NOERROR

    asyncio.run(main())


def test_whoever_waits_is_told_when_it_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with asking(monkeypatch, lambda _query: []) as there:
            told: list[bytes | OSError | None] = []
            there.resolver.attempt(QUERY, END, told.append)
            there.resolver.close()
            assert [type(one) for one in told] == [ConnectionAbortedError]
            with pytest.raises(DialError):
                await there.resolver.query(QUERY, cast(OSError, told[0]))

    asyncio.run(main())
