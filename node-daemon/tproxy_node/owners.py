"""Which workloads the node's pods belong to, read from the API server when somebody needs to know.

Reading takes a moment and may fail; until it has succeeded a pod counts as belonging to its direct owners only.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tproxy.errors import TproxyError
from tproxy.kube.owners import UNREADABLE_SECONDS, OwnerChains
from tproxy.kube.port import Cluster
from tproxy.model.pod import OwnerRef, Pod
from tproxy.tasks import Tasks

log = logging.getLogger(__name__)

RETRY_FIRST_SECONDS = 1.0
RETRY_LIMIT_SECONDS = 60.0

Chain = Sequence[tuple[str, str]]
"""Kind and name of a pod's owners, the nearest first."""


@dataclass(slots=True)
class _Known:
    direct: tuple[OwnerRef, ...]
    chain: Chain
    read: bool


class Owners:
    """`on_change` is called when more is known than before."""

    def __init__(self, cluster: Cluster, on_change: Callable[[], None]) -> None:
        self._owner_chains = OwnerChains(cluster)
        self._on_change = on_change
        self._known: dict[str, _Known] = {}
        self._tasks = Tasks("owners")

    @property
    def known(self) -> bool:
        """Whether the owners of every pod asked for have been read."""
        return all(known.read for known in self._known.values())

    def chains(self, pods: Iterable[Pod]) -> Mapping[str, Chain]:
        """By pod UID. Those of `pods` not known yet are read in the background, those of others are forgotten."""
        wanted = {pod.uid: pod for pod in pods}
        for uid in self._known.keys() - wanted.keys():
            del self._known[uid]
        for uid, pod in wanted.items():
            known = self._known.get(uid)
            if known is None or known.direct != pod.owners:
                self._known[uid] = known = _Known(pod.owners, _direct(pod), not pod.owners)
                if pod.owners:
                    self._tasks.start(self._read(pod, known), pod.name)
        return {uid: known.chain for uid, known in self._known.items()}

    async def _read(self, pod: Pod, known: _Known) -> None:
        delay = RETRY_FIRST_SECONDS
        while self._known.get(pod.uid) is known:
            try:
                found = await self._owner_chains.read(pod)
            except TproxyError as error:
                log.warning(
                    "cannot read the owners of a pod: %s",
                    error,
                    extra={"pod": f"{pod.namespace}/{pod.name}", "rate_key": "owners"},
                )
                await asyncio.sleep(delay)
                delay = min(delay * 2, RETRY_LIMIT_SECONDS)
                continue
            if not known.read or found.owners != tuple(known.chain):
                known.chain, known.read = found.owners, True
                self._on_change()
            if found.complete:
                return
            # An owner that may not be read, or is gone: a right may be granted later.
            await asyncio.sleep(UNREADABLE_SECONDS)

    async def close(self) -> None:
        """Stop reading."""
        await self._tasks.close()


def _direct(pod: Pod) -> Chain:
    return [(owner.kind, owner.name) for owner in pod.owners]
