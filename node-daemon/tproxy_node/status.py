"""Writes what this node makes of each intercept into `status.nodes[NODE]`, and nothing else.

What should be there is compared with what the API server is known to hold, so that an entry is written only when it
differs, also after a restart. Changes of one intercept within a short while become one write; a failed one is repeated.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tproxy.errors import TproxyError
from tproxy.kube.errors import NotFoundError, StaleError
from tproxy.kube.port import INTERCEPTS, Cluster
from tproxy.model.intercept import Intercept, NodeStatus
from tproxy.tasks import Tasks

log = logging.getLogger(__name__)

COALESCE_SECONDS = 0.1
RETRY_FIRST_SECONDS = 0.25
RETRY_LIMIT_SECONDS = 10.0


@dataclass(slots=True)
class _Entry:
    intercept: Intercept
    known: NodeStatus | None  # what the API server holds, as far as we know
    wanted: NodeStatus | None
    write: asyncio.Task[None] | None = None


class StatusWriter:
    """The node's own entries."""

    def __init__(self, cluster: Cluster, node: str) -> None:
        self._cluster = cluster
        self._node = node
        self._entries: dict[str, _Entry] = {}
        self._tasks = Tasks("status")

    def observe(self, intercepts: Iterable[Intercept]) -> None:
        """Learn which intercepts exist and what the API server holds for this node."""
        seen = {intercept.uid: intercept for intercept in intercepts}
        for uid in self._entries.keys() - seen.keys():
            del self._entries[uid]
        for uid, intercept in seen.items():
            entry = self._entries.get(uid)
            if entry is None:
                held = intercept.nodes.get(self._node)
                self._entries[uid] = _Entry(intercept, held, held)
            elif entry.intercept is not intercept:
                entry.intercept = intercept
                if entry.write is None:
                    entry.known = intercept.nodes.get(self._node)

    def want(self, statuses: Mapping[str, NodeStatus], complete: bool = True) -> None:
        """From now on these entries should be there, by intercept UID, and none for other intercepts.

        Unless `complete`, what is there for others stays for now: they may have pods here that are not known as theirs
        yet. Intercepts being left have none by definition.
        """
        for uid, entry in self._entries.items():
            if uid not in statuses and not complete and not entry.intercept.deleting:
                continue
            entry.wanted = statuses.get(uid)
            if entry.wanted != entry.known and entry.write is None:
                entry.write = self._tasks.start(self._write(uid, entry), entry.intercept.name)

    async def _write(self, uid: str, entry: _Entry) -> None:
        delay = RETRY_FIRST_SECONDS
        try:
            while self._entries.get(uid) is entry and entry.wanted != entry.known:
                status = entry.wanted
                intercept = entry.intercept
                body = Intercept.status_patch(self._node, status)
                # The name may belong to another intercept by now.
                body["metadata"] = {"uid": uid}
                try:
                    await self._cluster.patch(
                        INTERCEPTS, intercept.name, body, intercept.namespace, subresource="status"
                    )
                except (NotFoundError, StaleError):
                    return
                except TproxyError as error:
                    log.warning(
                        "cannot write the status of an intercept: %s",
                        error,
                        extra={"intercept": f"{intercept.namespace}/{intercept.name}", "rate_key": "status"},
                    )
                    await asyncio.sleep(delay)
                    delay = min(delay * 2, RETRY_LIMIT_SECONDS)
                else:
                    delay = RETRY_FIRST_SECONDS
                    entry.known = status
                    await asyncio.sleep(COALESCE_SECONDS)
        finally:
            entry.write = None

    async def settle(self) -> None:
        """Wait until everything wanted has been written."""
        while writes := [entry.write for entry in self._entries.values() if entry.write is not None]:
            await asyncio.wait(writes)

    async def close(self) -> None:
        """Write no more."""
        await self._tasks.close()
