"""Clients of the scene, with sockets in the network of one of the lab's places."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from tests.kernel.namespaces import Namespace
from tests.lab.scene import PORT

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True)
class Try:
    """One request on a connection of its own: when it began (monotonic), how long it took, who answered or what not."""

    began: float
    seconds: float
    who: str


@contextlib.asynccontextmanager
async def connection(place: Namespace, host: str, port: int = PORT) -> AsyncIterator[Streams]:
    """A connection, aborted in the end."""
    reader, writer = await asyncio.open_connection(sock=await place.connect(host, port), limit=1 << 18)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def get(place: Namespace, host: str, port: int = PORT) -> Try:
    """Ask once who is there, for at most 5 s."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(5), connection(place, host, port) as (reader, writer):
            writer.write(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            answer = (await reader.readline()).decode().strip()
            who = answer if answer == "laptop" else "pod" if answer.startswith("web-") else f"wrong: {answer}"
    except (OSError, EOFError, TimeoutError) as error:
        who = type(error).__name__
    return Try(began, time.monotonic() - began, who)


class Prober:
    """Asks anew every `interval` seconds while entered, whatever becomes of earlier tries."""

    def __init__(self, place: Namespace, host: str, interval: float) -> None:
        self.tries: list[Try] = []
        self._place, self._host, self._interval = place, host, interval
        self._tasks = asyncio.TaskGroup()

    def since(self, began: float) -> list[Try]:
        """Tries that began then or later and have ended."""
        return [one for one in self.tries if one.began >= began]

    def count(self) -> Counter[str]:
        """How often who answered."""
        return Counter(one.who for one in self.tries)

    async def answered(self, who: str, times: int, seconds: float = 20) -> None:
        """Wait until so many more tries were answered so."""
        enough = self.count()[who] + times
        async with asyncio.timeout(seconds):
            while self.count()[who] < enough:  # noqa: ASYNC110 - tries end by themselves
                await asyncio.sleep(0.005)

    async def __aenter__(self) -> "Prober":
        self._asking = True
        await self._tasks.__aenter__()
        self._tasks.create_task(self._ask())
        return self

    async def __aexit__(self, *failure: Any) -> None:
        self._asking = False
        await self._tasks.__aexit__(*failure)

    async def _ask(self) -> None:
        while self._asking:
            self._tasks.create_task(self._one())
            await asyncio.sleep(self._interval)

    async def _one(self) -> None:
        self.tries.append(await get(self._place, self._host))
