"""All clusters the daemon has to do with, found by what the command line says of them."""

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tproxy.kube import kubeconfig
from tproxy.kube.config import load
from tproxy.kube.kubeconfig import Context
from tproxy_cli.daemon.cluster import LaptopCluster
from tproxy_cli.daemon.inbound import Connect, connect_laptop
from tproxy_cli.daemon.requests import Where
from tproxy_cli.daemon.state import SavedSession

log = logging.getLogger(__name__)

_Paths = tuple[str, ...]
_Stamp = tuple[tuple[int, int, int], ...]
"""Of each file inode, size and time of the last change."""


@dataclass(slots=True)
class _Known:
    """A cluster and the part of the kubeconfig it was made of; None inside a pod, where there is no kubeconfig."""

    cluster: LaptopCluster
    entry: Context | None


class Clusters:
    """One `LaptopCluster` per kubeconfig and context, however the command line names them."""

    def __init__(self, forwards: Path, on_save: Callable[[], None], connect: Connect = connect_laptop) -> None:
        self._forwards = forwards
        self._connect = connect
        self._on_save = on_save
        self._known: dict[tuple[_Paths, str], _Known] = {}
        self._asked: dict[tuple[_Paths, str | None], tuple[_Stamp, LaptopCluster]] = {}
        self._lock = asyncio.Lock()

    def all(self) -> list[LaptopCluster]:
        """Every cluster in use."""
        return [known.cluster for known in self._known.values()]

    async def find(self, where: Where) -> tuple[LaptopCluster, str]:
        """The cluster and namespace meant, its nodes reached as is said. Raises TproxyError."""
        cluster = await self._cluster(where.kubeconfig, where.context)
        if where.transport is not None:
            cluster.take(where.transport)
        return cluster, where.namespace or cluster.config.namespace

    async def restore(self, saved: SavedSession) -> None:
        """Take up a session of an earlier daemon. Raises TproxyError if the way to its cluster is gone."""
        cluster = await self._cluster(saved.kubeconfig, saved.context or None)
        cluster.resume(saved)

    async def close(self) -> None:
        """Close connections."""
        await asyncio.gather(*(cluster.close() for cluster in self.all()))

    async def _cluster(self, path: str | None, context: str | None) -> LaptopCluster:
        async with self._lock:
            paths = kubeconfig.find(path, _environment())
            stamp = _stamp(paths)
            asked = self._asked.get((paths, context))
            if asked is None or asked[0] != stamp:
                asked = self._asked[paths, context] = (stamp, await self._look(paths, context))
            return asked[1]

    async def _look(self, paths: _Paths, context: str | None) -> LaptopCluster:
        """Read the kubeconfig. Its credential plugin may take seconds, so it is run only for what has changed."""
        entry = await asyncio.to_thread(lambda: kubeconfig.read(paths).context(context)) if paths else None
        key = (paths, entry.name if entry is not None else "")
        known = self._known.get(key)
        if known is not None and entry is not None and known.entry is not None:
            same = (known.entry.cluster, known.entry.user) == (entry.cluster, entry.user)
            known.entry = entry
            if same:  # another context was made the current one, or the namespace changed: tunnels stay
                known.cluster.config = replace(known.cluster.config, namespace=entry.namespace)
                return known.cluster
        path = os.pathsep.join(paths) or None
        config = await asyncio.to_thread(load, path, entry.name if entry is not None else context, _environment())
        if known is not None:
            log.info("the way into the cluster has changed", extra={"context": config.context})
            known.cluster.use(config)
            return known.cluster
        self._known[key] = _Known(LaptopCluster(path, config, self._forwards, self._on_save, self._connect), entry)
        return self._known[key].cluster


def _environment() -> dict[str, str]:
    """Ours without KUBECONFIG, which is of the shell that started us: the command line says which files it means."""
    return {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}


def _stamp(paths: _Paths) -> _Stamp:
    stamps = []
    for path in paths:
        try:
            found = os.stat(path)
        except OSError:
            stamps.append((0, 0, 0))
        else:
            stamps.append((found.st_ino, found.st_size, found.st_mtime_ns))
    return tuple(stamps)
