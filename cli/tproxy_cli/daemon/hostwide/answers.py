"""Answers to DNS questions that programs send by UDP to the laptop's resolvers, from the address that was asked.

A program asks from a new port each time, so there are no flows: one socket speaks for a resolver to everybody. For a
resolver on the laptop itself each answer has a socket of its own, for one that stays would take what is the resolver's
own whenever nothing is caught.
"""

import ipaddress
import logging
import socket

from tproxy.capture import sockets
from tproxy.dns import wire
from tproxy.model.flow import Address
from tproxy.tasks import Tasks
from tproxy_cli.connect.layout import DNS_PORT
from tproxy_cli.daemon.hostwide.names import HostNames
from tproxy_cli.daemon.runs.datagrams import Key, Sockets

log = logging.getLogger(__name__)

MOST_QUESTIONS = 1024
"""Under way at a time; one more is dropped, as a full buffer would, and the program asks again."""

MOST_SPEAKERS = 64
"""Sockets that are kept; an attempt to have more closes those there are."""


class Answers:
    """Asks for programs, and tells them. `make` makes sockets where they are."""

    def __init__(self, make: Sockets) -> None:
        self._make = make
        self._speakers: dict[Address, socket.socket] = {}
        self._under_way = 0
        self._tasks = Tasks("dns")

    def ask(self, key: Key, query: bytes, names: HostNames) -> None:
        """A program's question; the answer is sent when it is there."""
        if wire.is_query(query) and self._under_way < MOST_QUESTIONS:
            self._under_way += 1
            self._tasks.start(self._answer(key, query, names), "query")

    async def _answer(self, key: Key, query: bytes, names: HostNames) -> None:
        program, resolver = key
        try:
            answer = await names.server.answer(query, False)
            if answer is None:
                return
            text = wire.for_udp(query, answer)
            if ipaddress.ip_address(resolver.host).is_loopback:
                with await self._socket(resolver, program) as speaker:
                    speaker.send(text)
            else:
                speaker = self._speakers.get(resolver) or await self._speaker(resolver)
                speaker.sendto(text, (program.host, program.port))
        except OSError as error:  # BlockingIOError too: dropped, as UDP does
            log.info("an answer from %s: %s", resolver, error)
        finally:
            self._under_way -= 1

    async def _speaker(self, resolver: Address) -> socket.socket:
        made = await self._socket(resolver, None)
        if len(self._speakers) >= MOST_SPEAKERS:
            self._forget()
        other = self._speakers.setdefault(resolver, made)
        if other is not made:
            made.close()
        return other

    async def _socket(self, resolver: Address, program: Address | None) -> socket.socket:
        """One that speaks as `resolver`. Raises OSError."""
        made = await self._make.socket(socket.AF_INET6 if ":" in resolver.host else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            sockets.answering(made, resolver, program)
        except BaseException:
            made.close()
            raise
        return made

    def _forget(self) -> None:
        for speaker in self._speakers.values():
            speaker.close()
        self._speakers.clear()

    async def close(self) -> None:
        """Answer no more."""
        await self._tasks.close()
        self._forget()


async def can_speak_as(host: str, make: Sockets) -> bool:
    """Whether answers can be sent as the resolver at `host`: one on the laptop itself may have its port for itself."""
    if not ipaddress.ip_address(host).is_loopback:
        return True
    try:
        made = await make.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        with made:
            sockets.answering(made, Address(host, DNS_PORT), None)
    except OSError:
        return False
    return True
