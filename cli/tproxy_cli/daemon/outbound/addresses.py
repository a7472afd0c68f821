"""Which addresses are the cluster's, as far as the user may see: those of Services and pods, as they come and go.

With the right to watch all namespaces it is all of them; else those of the namespaces that are worked in. Addresses
that the cluster's DNS has answered with count as well, for a while.
"""

import asyncio
import ipaddress
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from tproxy.errors import TproxyError
from tproxy.kube.port import PODS, SERVICES, Applied, Cluster, Object, Removed, Resource
from tproxy.tasks import Tasks

log = logging.getLogger(__name__)

LEARNED_SECONDS = 600.0
"""How long an address counts that DNS has answered with: programs keep using it far beyond its TTL."""

MAX_LEARNED = 4096

_Key = tuple[str, str, str]
"""Kind, namespace, name."""


class ClusterAddresses:
    """All of one cluster. `on_change` is called with an address and whether it is one now."""

    def __init__(
        self, cluster: Cluster, server: str, on_change: Callable[[str, bool], None] = lambda address, known: None
    ) -> None:
        """`server` is the API server's URL; what it is at never counts: the tunnel itself goes there."""
        self.synced = asyncio.Event()
        """Set once everything there was has been seen."""
        self.listeners: list[Callable[[str, bool], None]] = [on_change]
        self._cluster = cluster
        self._server = server
        self._never: frozenset[str] = frozenset()
        self._of: dict[_Key, frozenset[str]] = {}
        self._count: Counter[str] = Counter()
        self._services: set[_Key] = set()
        self._learned: dict[str, float] = {}
        self._waiting = 0
        self._tasks = Tasks("addresses")
        self._places: set[str] = set()

    async def start(self, namespace: str) -> None:
        """Begin to watch, at least `namespace`. Idempotent."""
        if "" in self._places or namespace in self._places:
            return
        self._never = self._never or await _resolve(self._server)
        for resource in (SERVICES, PODS):
            place = "" if await self._may_see_all(resource) else namespace
            self._places.add(place)
            self._waiting += 1
            self.synced.clear()
            self._tasks.start(self._follow(resource, place), f"{resource.plural} {place}")

    async def _may_see_all(self, resource: Resource) -> bool:
        try:
            return await self._cluster.may("watch", resource) and await self._cluster.may("list", resource)
        except TproxyError as error:
            log.warning("cannot ask for rights: %s", error.message)
            return False

    @property
    def never(self) -> frozenset[str]:
        """Addresses that never are the cluster's: the API server's."""
        return self._never

    def owns(self, address: str) -> bool:
        """Whether `address` is the cluster's."""
        if address in self._never:
            return False
        return address in self._count or self._learned.get(address, 0.0) > time.monotonic()

    def all(self) -> set[str]:
        """Every address that is the cluster's now."""
        now = time.monotonic()
        learned = {address for address, until in self._learned.items() if until > now}
        return (set(self._count) | learned) - self._never

    def has_service(self, namespace: str, name: str) -> bool:
        """Whether there is a Service of that name, as far as the user may see; headless ones included."""
        return (SERVICES.kind, namespace, name) in self._services

    def learn(self, addresses: Iterable[str]) -> None:
        """The cluster's DNS has answered with these."""
        now = time.monotonic()
        for address in addresses:
            if address not in self._learned and len(self._learned) >= MAX_LEARNED:
                self._forget(now)
            known = self.owns(address)
            self._learned[address] = now + LEARNED_SECONDS
            if not known:
                self._tell(address, True)

    def _forget(self, now: float) -> None:
        """Those whose time is over, or else the oldest."""
        old = [address for address, until in self._learned.items() if until <= now] or list(self._learned)[:64]
        for address in old:
            del self._learned[address]
            if address not in self._count:
                self._tell(address, False)

    async def _follow(self, resource: Resource, namespace: str) -> None:
        waiting = True
        seen: set[_Key] = set()
        async for event in self._cluster.watch(resource, namespace):
            if isinstance(event, Applied):
                seen.add(self._set(event.object, addresses_in(event.object)))
            elif isinstance(event, Removed):
                self._services.discard(self._set(event.object, frozenset()))
            elif waiting:
                waiting = False
                self._forget_unseen(resource.kind, namespace, seen)
                self._waiting -= 1
                if not self._waiting:
                    self.synced.set()

    def _forget_unseen(self, kind: str, namespace: str, seen: set[_Key]) -> None:
        """Drop what an earlier watch knew and this one has not seen."""
        for key in list(self._of):
            if key[0] == kind and namespace in ("", key[1]) and key not in seen:
                self._put(key, frozenset())
        for key in [key for key in self._services if key[0] == kind and namespace in ("", key[1]) and key not in seen]:
            self._services.discard(key)

    def _set(self, each: Object, addresses: frozenset[str]) -> _Key:
        metadata = each["metadata"]
        key = (str(each.get("kind")), str(metadata.get("namespace")), str(metadata.get("name")))
        self._put(key, addresses)
        if key[0] == SERVICES.kind:
            self._services.add(key)
        return key

    def _put(self, key: _Key, addresses: frozenset[str]) -> None:
        before = self._of.get(key, frozenset())
        if addresses:
            self._of[key] = addresses
        else:
            self._of.pop(key, None)
        for address in addresses - before:
            self._count[address] += 1
            if self._count[address] == 1:
                self._tell(address, True)
        for address in before - addresses:
            self._count[address] -= 1
            if not self._count[address]:
                del self._count[address]
                self._tell(address, False)

    def _tell(self, address: str, known: bool) -> None:
        if address not in self._never:
            for listener in self.listeners:
                listener(address, known)

    def use(self, cluster: Cluster, server: str) -> None:
        """The way into the cluster has changed: watch by the new one. What was known stays until it says otherwise."""
        self._cluster, self._server = cluster, server
        places, self._places = self._places, set()
        if places:
            previous, self._tasks = self._tasks, Tasks("addresses")
            self._never, self._waiting = frozenset(), 0
            self._tasks.start(self._again(previous, places), "again")

    async def _again(self, previous: Tasks, places: set[str]) -> None:
        await previous.close()
        for namespace in places:
            await self.start(namespace)

    async def close(self) -> None:
        """Watch no more."""
        await self._tasks.close()


def addresses_in(each: Object) -> frozenset[str]:
    """The addresses that a Service or a pod has, without those of pods in their node's network. Never raises."""
    spec, status = _part(each, "spec"), _part(each, "status")
    if each.get("kind") == "Service":
        listed = [*_list(spec.get("clusterIPs")), spec.get("clusterIP")]
    elif spec.get("hostNetwork") or status.get("phase") in ("Succeeded", "Failed"):
        listed = []
    else:
        listed = [status.get("podIP"), *(one.get("ip") for one in _list(status.get("podIPs")) if isinstance(one, dict))]
    return frozenset(text for one in listed if (text := _numeric(one)) is not None)


def _part(each: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = each.get(name)
    return part if isinstance(part, Mapping) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _numeric(value: object) -> str | None:
    try:
        return str(ipaddress.ip_address(value)) if isinstance(value, str) else None
    except ValueError:
        return None


async def _resolve(server: str) -> frozenset[str]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(urlsplit(server).hostname, None, type=socket.SOCK_STREAM)
    except OSError:
        return frozenset()
    return frozenset(str(address[0]).partition("%")[0] for *_, address in found)
