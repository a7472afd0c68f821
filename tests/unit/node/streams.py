"""A tunnel without a network: two endpoints joined by queues."""

import asyncio
from collections.abc import Callable

from tproxy.tunnel.endpoint import Endpoint, StreamLostError


class MemoryStream:
    """One end of a pipe of batches."""

    def __init__(self) -> None:
        self.other = self
        self._inbox: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._over = False

    async def each(self, receive: Callable[[bytes], None]) -> None:
        while not self._over and (batch := await self._inbox.get()) is not None:
            receive(batch)

    async def write(self, batch: bytes) -> None:
        if self._over:
            raise StreamLostError("over")
        self.other._inbox.put_nowait(batch)

    def abort(self, reason: str) -> None:
        self._over = self.other._over = True
        self._inbox.put_nowait(None)
        self.other._inbox.put_nowait(None)


def tunnel() -> tuple[Endpoint, Endpoint]:
    """The node's end and the laptop's."""
    here, there = MemoryStream(), MemoryStream()
    here.other, there.other = there, here
    return Endpoint(here, laptop=False), Endpoint(there, laptop=True)
