"""Who owns a pod: its controller, the controller's controller, and so on, of any kind."""

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass

from tproxy.errors import DeniedError, InvalidError
from tproxy.kube.errors import NotFoundError
from tproxy.kube.port import Cluster
from tproxy.model.fields import Fields
from tproxy.model.pod import OwnerRef, Pod, owners

KNOWN_SECONDS = 300.0
"""How long the owners of an object are taken as read. They change only by orphaning and adoption."""

UNREADABLE_SECONDS = 30.0
"""How long an object that is missing, or that we may not read, is not asked for again."""

_CACHE_SIZE = 10_000
_CHAIN_LIMIT = 32


@dataclass(frozen=True, slots=True)
class Chain:
    """Kind and name of the owners, nearest first. Not `complete` if one of them could not be read."""

    owners: tuple[tuple[str, str], ...]
    complete: bool


@dataclass(frozen=True, slots=True)
class _Known:
    owners: tuple[OwnerRef, ...] | None  # None: unreadable
    until: float


class OwnerChains:
    """Reads owners on demand and remembers them by UID."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._lock = asyncio.Lock()

    async def chain(self, pod: Pod) -> tuple[tuple[str, str], ...]:
        """Kind and name of every owner of `pod`, nearest first.

        An owner that is gone or that we may not read ends the chain there; its own kind and name still count. Raises
        `ClusterError` if the API server cannot be asked.
        """
        return (await self.read(pod)).owners

    async def read(self, pod: Pod) -> Chain:
        """As `chain`, and whether that is all of it."""
        found: dict[str, OwnerRef] = {}
        complete = True
        ahead = list(pod.owners)
        while ahead and len(found) < _CHAIN_LIMIT:
            owner = ahead.pop(0)
            if owner.uid in found:
                continue
            found[owner.uid] = owner
            beyond = await self._owners_of(owner, pod.namespace)
            complete = complete and beyond is not None
            ahead += beyond or ()
        return Chain(tuple((owner.kind, owner.name) for owner in found.values()), complete)

    async def _owners_of(self, owner: OwnerRef, namespace: str) -> tuple[OwnerRef, ...] | None:
        known = self._known.get(owner.uid)
        if known is None or known.until < time.monotonic():
            # One at a time: all pods of a ReplicaSet ask for the same object.
            async with self._lock:
                known = self._known.get(owner.uid)
                if known is None or known.until < time.monotonic():
                    known = await self._read(owner, namespace)
                    self._known[owner.uid] = known
        self._known.move_to_end(owner.uid)
        while len(self._known) > _CACHE_SIZE:
            self._known.popitem(last=False)
        return known.owners

    async def _read(self, owner: OwnerRef, namespace: str) -> _Known:
        try:
            resource = await self._cluster.resource_for(owner.api_version, owner.kind)
            obj = await self._cluster.get(resource, owner.name, namespace if resource.namespaced else "")
            metadata = Fields.of_object(obj, owner.kind).part("metadata")
            if metadata.text("uid") == owner.uid:
                return _Known(owners(metadata), time.monotonic() + KNOWN_SECONDS)
        except (NotFoundError, DeniedError, InvalidError):
            pass
        return _Known(None, time.monotonic() + UNREADABLE_SECONDS)
