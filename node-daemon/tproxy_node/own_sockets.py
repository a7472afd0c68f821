"""This process's own sockets, looked for once for everybody who asks meanwhile: a look takes a microsecond for each."""

import asyncio
from collections.abc import Set

from tproxy.netns.descriptors import own_sockets
from tproxy.tasks import Tasks


class OwnSockets:
    """`look` for their inodes."""

    def __init__(self) -> None:
        self._tasks = Tasks("own sockets")
        self._now: asyncio.Task[Set[int]] | None = None
        self._next: asyncio.Task[Set[int]] | None = None

    async def look(self) -> Set[int]:
        """Those that there are after the call: of a look that begins after it."""
        if self._next is None:
            self._next = self._tasks.start(self._after(self._now), "look")
        return await asyncio.shield(self._next)

    async def _after(self, other: asyncio.Task[Set[int]] | None) -> Set[int]:
        if other is not None:
            await asyncio.wait([other])
        self._now, self._next = self._next, None
        return await asyncio.get_running_loop().run_in_executor(None, own_sockets)

    def close(self) -> None:
        """Look no more; who waits is cancelled."""
        self._tasks.cancel()
