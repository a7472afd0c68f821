"""Who speaks for a resolver, and how many questions are under way."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tproxy_cli.daemon.hostwide import answers
from tproxy_cli.daemon.hostwide.answers import Answers

from tproxy.dns import wire
from tproxy.model.flow import Address

Socket = socket.socket
RESOLVER, OWN = Address("192.0.2.53", 53), Address("127.0.0.53", 53)
QUERY = wire.make_query("web", wire.A, 7)


class Names:
    """Says that there is nothing, when it is let to."""

    def __init__(self) -> None:
        self.server = self
        self.may = asyncio.Event()
        self.asked = 0

    async def answer(self, query: bytes, tcp: bool) -> bytes | None:
        self.asked += 1
        await self.may.wait()
        return wire.answer_without_records(query, wire.NXDOMAIN)


class Place:
    """Makes ordinary sockets, and remembers as whom and to whom each was to speak."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[Socket] = []
        self.spoke: list[tuple[Address, Address | None]] = []
        monkeypatch.setattr(answers.sockets, "answering", self._answering)

    async def socket(self, family: int, kind: int) -> Socket:
        self.made.append(Socket(family, kind))
        return self.made[-1]

    def _answering(self, sock: Socket, own: Address, peer: Address | None) -> None:
        self.spoke.append((own, peer))
        if peer is not None:
            sock.connect((peer.host, peer.port))


def play(monkeypatch: pytest.MonkeyPatch, scenario: Callable[[Answers, Place, Names, Any], Awaitable[None]]) -> None:
    async def whole() -> None:
        place, names = Place(monkeypatch), Names()
        one = Answers(place)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as program:
            program.bind(("127.0.0.1", 0))
            program.setblocking(False)
            async with asyncio.timeout(10):
                await scenario(one, place, names, program)
            await one.close()
        assert all(sock.fileno() < 0 for sock in place.made)

    asyncio.run(whole())


@pytest.mark.parametrize(("resolver", "count"), [(RESOLVER, 1), (OWN, 3)])
def test_one_speaks_for_a_resolver_but_not_for_one_on_the_laptop(
    monkeypatch: pytest.MonkeyPatch, resolver: Address, count: int
) -> None:
    async def scenario(one: Answers, place: Place, names: Names, program: Socket) -> None:
        names.may.set()
        asking = Address(*program.getsockname())
        for _ in range(3):
            one.ask((asking, resolver), QUERY, names)  # type: ignore[arg-type]
            answer = await asyncio.get_running_loop().sock_recv(program, 4096)
            assert (answer[:2], wire.rcode(answer)) == (QUERY[:2], wire.NXDOMAIN)
        assert place.spoke == [(resolver, None if resolver is RESOLVER else asking)] * count

    play(monkeypatch, scenario)


def test_more_than_so_many_are_dropped_and_so_is_what_asks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MOST_QUESTIONS", 2)

    async def scenario(one: Answers, place: Place, names: Names, program: Socket) -> None:
        asking = Address(*program.getsockname())
        for query in (b"", wire.answer_without_records(QUERY, 0), *[QUERY] * 3):
            one.ask((asking, RESOLVER), query, names)  # type: ignore[arg-type]
        await asyncio.sleep(0)
        names.may.set()
        for _ in range(2):
            await asyncio.get_running_loop().sock_recv(program, 4096)
        assert names.asked == 2

    play(monkeypatch, scenario)


@pytest.mark.parametrize(("host", "taken", "can"), [("127.0.0.1", True, False), ("127.0.0.1", False, True)])
def test_a_resolver_that_has_its_port_for_itself(
    monkeypatch: pytest.MonkeyPatch, host: str, taken: bool, can: bool
) -> None:
    async def whole() -> None:
        place = Place(monkeypatch)
        if taken:

            def refuse(sock: Socket, own: Address, peer: Address | None) -> None:
                raise OSError(98, "Address already in use")

            monkeypatch.setattr(answers.sockets, "answering", refuse)
        assert await answers.can_speak_as(host, place) is can
        assert await answers.can_speak_as(RESOLVER.host, place)
        assert all(sock.fileno() < 0 for sock in place.made)

    asyncio.run(whole())
