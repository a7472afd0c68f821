"""Which workloads the node's pods belong to, read from the API server when somebody needs to know.

Reading takes a moment and may fail; until it has succeeded a pod counts as belonging to its direct owners only.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

from tproxy.kube.workloads import OwnerChains

from tproxy.errors import TproxyError
from tproxy.kube.port import Cluster
from tproxy.model.pod import Pod
from tproxy.tasks import Tasks

log = logging.getLogger(__name__)

RETRY_FIRST_SECONDS = 1.0
RETRY_LIMIT_SECONDS = 60.0

Chain = Sequence[tuple[str, str]]
"""Kind and name of a pod's owners, the nearest first."""


class Owners:
    """`on_change` is called when more is known than before."""

    def __init__(self, cluster: Cluster, on_change: Callable[[], None]) -> None:
        self._owner_chains = OwnerChains(cluster)
        self._on_change = on_change
        self._chains: dict[str, Chain] = {}
        self._tasks = Tasks("owners")

    def chains(self, pods: Iterable[Pod]) -> Mapping[str, Chain]:
        """By pod UID. Those of `pods` not known yet are read in the background, those of others are forgotten."""
        wanted = {pod.uid: pod for pod in pods}
        for uid in self._chains.keys() - wanted.keys():
            del self._chains[uid]
        for uid, pod in wanted.items():
            if uid not in self._chains:
                self._chains[uid] = [(owner.kind, owner.name) for owner in pod.owners]
                if pod.owners:
                    self._tasks.start(self._read(pod), pod.name)
        return dict(self._chains)

    async def _read(self, pod: Pod) -> None:
        delay = RETRY_FIRST_SECONDS
        while pod.uid in self._chains:
            try:
                self._chains[pod.uid] = await self._owner_chains.chain(pod)
                self._on_change()
                return
            except TproxyError as error:
                log.warning(
                    "cannot read the owners of a pod: %s",
                    error,
                    extra={"pod": f"{pod.namespace}/{pod.name}", "rate_key": "owners"},
                )
                await asyncio.sleep(delay)
                delay = min(delay * 2, RETRY_LIMIT_SECONDS)

    async def close(self) -> None:
        """Stop reading."""
        await self._tasks.close()
