"""Clients that mean no good, on a port with personal intercepts: they cost a bounded share, and others are answered."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import pytest
from hpack import Encoder
from tproxy_node.desired import Route
from tproxy_node.personal import ports

from tests.kernel.answering import PORT
from tests.kernel.namespaces import POD_IP4, PodNetwork, until
from tests.kernel.sharing import Play, Scene, Site, player
from tests.unit.http.h2_wire import PREFACE, read
from tproxy.http.h2 import frames as f
from tproxy.http.h2.book import MAX_STREAMS
from tproxy.http.port import Choice
from tproxy.model.match import HeaderMatch, Match
from tproxy.steer.port import Steering
from tproxy.tunnel.conn import Buffer

ADA = (Match((HeaderMatch("x-user", "ada"),)), Choice("uid-ada", "session-ada", "shop/web-ada", "adas"))
ADAS = b"GET / HTTP/1.1\r\nHost: shop\r\nx-user: ada\r\n\r\n"
FIELDS = [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "shop"), ("x-user", "ada")]
SHARE = 64 * 1024 * 1024
MOMENTS = 5.0
"""Seconds. Attacker, laptop and everybody else are this one process."""


class Deaf(Site):
    """Answers HTTP/1, and nothing that is said in HTTP/2."""

    _two = False

    def conn_data(self, data: Buffer) -> None:
        self._two = self._two or bytes(data[:3]) == b"PRI"
        if self._two:
            self._conn.consumed(len(data))
        else:
            super().conn_data(data)


@pytest.fixture
def play(network: PodNetwork, steering: Steering) -> Play:
    return player(network, steering, Route(personal=(ADA,)))


@contextlib.asynccontextmanager
async def listening(scene: Scene) -> AsyncIterator[None]:
    """An app that reads, and says nothing."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while await reader.read(1 << 16):
                pass
        writer.close()

    async with await asyncio.start_server(serve, sock=scene.network.pod.listen(POD_IP4, PORT)):
        yield


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def answered_meanwhile(scene: Scene, attack: Coroutine[Any, Any, None]) -> None:
    """Somebody else's requests are answered, each within moments, until the attack is over."""
    async with asyncio.TaskGroup() as tasks, scene.client() as other:
        attacking = tasks.create_task(attack)
        longest = 0.0
        while not attacking.done():
            began = time.monotonic()
            async with asyncio.timeout(MOMENTS):
                assert (await other.ask(ADAS)).startswith("uid-ada")
            longest = max(longest, time.monotonic() - began)
        print(f"the longest that somebody else has waited: {longest * 1000:.0f} ms")


def test_ten_thousand_streams(play: Play) -> None:
    """As many as anybody may have are held, a storm of more ends the connection, and what it has cost is given back."""

    async def attack(scene: Scene) -> None:
        encoder = Encoder()
        encoder.header_table_size = 0
        block = bytes(encoder.encode(FIELDS))
        async with scene.client() as client:
            client.writer.write(PREFACE + f.settings({}))
            with contextlib.suppress(ConnectionError):
                for number in range(10_000):
                    if client.writer.is_closing():
                        break
                    client.writer.write(f.headers(2 * number + 1, block, False))
                    if number % 100 == 0:
                        await client.writer.drain()
            heard = b""
            with contextlib.suppress(ConnectionError):
                while data := await client.reader.read(1 << 16):  # to the end, which is not the client's
                    heard += data
        seen = read(heard)
        # The last of it is lost if it was still sending.
        assert [code for _, code in seen.goaways] in ([], [f.ENHANCE_YOUR_CALM])
        refused = [number for number, message in seen.messages.items() if message.reset == f.REFUSED_STREAM]
        assert min(refused, default=2 * MAX_STREAMS + 1) == 2 * MAX_STREAMS + 1

    async def scenario(scene: Scene) -> None:
        scene.laptop.on_open = Deaf
        before = resident()
        async with listening(scene):
            await answered_meanwhile(scene, attack(scene))
            assert resident() - before < SHARE
            await until(lambda: not scene.relay.active["app"])
            await until(lambda: not scene.relay.active["laptop"])

    play(scenario)


def test_a_laptop_whose_app_reads_nothing_of_many_uploads(play: Play) -> None:
    async def attack(scene: Scene) -> None:
        encoder = Encoder()
        encoder.header_table_size = 0
        block = bytes(encoder.encode(FIELDS))
        async with scene.client() as client:
            client.writer.write(PREFACE + f.settings({}) + f.frame(f.SETTINGS, f.ACK, 0))
            with contextlib.suppress(ConnectionError):
                for number in range(500):
                    data = f.frame(f.DATA, 0, 2 * number + 1, bytes(16_384)) * 3
                    client.writer.write(f.headers(2 * number + 1, block, False) + data)
                    await client.writer.drain()
            heard = await client.reader.read(1 << 20)
        assert any(message.reset for message in read(heard).messages.values())

    async def scenario(scene: Scene) -> None:
        scene.laptop.on_open = Deaf
        before = resident()
        async with listening(scene):
            await answered_meanwhile(scene, attack(scene))
            assert resident() - before < SHARE

    play(scenario)


def test_slow_beginnings_by_the_hundred(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """Byte by byte, never to the end: what is held for them has a limit, and others are answered."""
    monkeypatch.setattr(ports, "MAX_HELD", 20_000)

    async def attack(scene: Scene) -> None:
        async with contextlib.AsyncExitStack() as stack:
            many = [await stack.enter_async_context(scene.client()) for _ in range(300)]
            for at in range(len(ADAS) - 1):
                for one in many:
                    one.writer.write(ADAS[at : at + 1])
                await asyncio.sleep(0)
                assert scene.relay.held <= 20_000
            await until(lambda: scene.relay.held > 0)

    async def scenario(scene: Scene) -> None:
        before = resident()
        async with listening(scene):
            await answered_meanwhile(scene, attack(scene))
            assert resident() - before < SHARE
            await until(lambda: scene.relay.held == 0)

    play(scenario)
