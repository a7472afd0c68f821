"""Ways into clusters, shared by runs that want the same, and kept for a while: the next run begins at once.

Opening one takes a Session object, a tunnel and a look at the cluster's addresses, which is most of what a run waits
for.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tproxy.model.workload import TargetQuery
from tproxy.tasks import Tasks
from tproxy_cli.daemon.cluster import LaptopCluster
from tproxy_cli.daemon.outbound.port import Outbound
from tproxy_cli.daemon.outbound.way import open_outbound
from tproxy_cli.daemon.requests import Where

log = logging.getLogger(__name__)

LINGER_SECONDS = 60.0
"""How long a way outlives the last run that uses it."""

Find = Callable[[Where], Awaitable[tuple[LaptopCluster, str]]]
Say = Callable[[str], None]


@dataclass(slots=True)
class Lease:
    """A run's share in a way, until `release`."""

    outbound: Outbound
    release: Callable[[], None]


@dataclass(slots=True)
class _Shared:
    outbound: Outbound
    users: int = 0
    timer: asyncio.TimerHandle | None = None


_Key = tuple[LaptopCluster, str, TargetQuery | None]


class Ways:
    """All of them. `find` gives the cluster and the namespace that are meant."""

    def __init__(self, find: Find) -> None:
        self._find = find
        self._shared: dict[_Key, _Shared] = {}
        self._locks: dict[_Key, asyncio.Lock] = {}
        self._tasks = Tasks("ways")

    async def open(self, where: Where, target: TargetQuery | None, say: Say) -> Lease:
        """A way, saying what is being done. Raises TproxyError."""
        cluster, namespace = await self._find(where)
        key = (cluster, namespace, target)
        async with self._locks.setdefault(key, asyncio.Lock()):
            shared = self._shared.get(key)
            if shared is not None and shared.outbound.trouble and not shared.users:
                await self._close(key, shared)  # a new one says what is wrong now
                shared = None
            if shared is None:
                say(f'opening a way into namespace "{namespace}"')
                shared = self._shared[key] = _Shared(await open_outbound(cluster, namespace, target))
            shared.users += 1
            if shared.timer is not None:
                shared.timer.cancel()
                shared.timer = None
        return Lease(shared.outbound, lambda: self._release(key, shared))

    async def close(self) -> None:
        """Close all."""
        await self._tasks.close()
        await asyncio.gather(*(self._close(key, shared) for key, shared in list(self._shared.items())))

    def _release(self, key: _Key, shared: _Shared) -> None:
        shared.users -= 1
        if not shared.users:
            loop = asyncio.get_running_loop()
            shared.timer = loop.call_later(LINGER_SECONDS, self._expire, key, shared)

    def _expire(self, key: _Key, shared: _Shared) -> None:
        if not shared.users:
            self._tasks.start(self._close(key, shared), "close")

    async def _close(self, key: _Key, shared: _Shared) -> None:
        if self._shared.get(key) is shared:
            del self._shared[key]
        if shared.timer is not None:
            shared.timer.cancel()
        await shared.outbound.close()
