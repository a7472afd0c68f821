"""All clusters the daemon has to do with, found by what the command line says of them."""

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path

from tproxy.kube import kubeconfig
from tproxy.kube.config import load
from tproxy_cli.daemon.cluster import LaptopCluster
from tproxy_cli.daemon.requests import Where
from tproxy_cli.daemon.state import SavedSession

log = logging.getLogger(__name__)

_Version = tuple[tuple[str, int, int, int], ...]
"""Of kubeconfig files: path, inode, size and time of the last change."""


class Clusters:
    """One `LaptopCluster` per kubeconfig and context, whether the context is named or the current one."""

    def __init__(self, forwards: Path, on_save: Callable[[], None]) -> None:
        self._forwards = forwards
        self._on_save = on_save
        self._by_context: dict[tuple[str | None, str], LaptopCluster] = {}
        self._asked: dict[tuple[str | None, str | None], tuple[_Version, LaptopCluster]] = {}
        self._lock = asyncio.Lock()

    def all(self) -> list[LaptopCluster]:
        """Every cluster in use."""
        return list(self._by_context.values())

    async def find(self, where: Where) -> tuple[LaptopCluster, str]:
        """The cluster and namespace meant. Raises TproxyError."""
        cluster = await self._cluster(where.kubeconfig, where.context)
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
            # Reading a kubeconfig may run a plugin for seconds: only when a file has changed.
            version = _version(path)
            asked = self._asked.get((path, context))
            if asked is not None and asked[0] == version:
                return asked[1]
            config = await asyncio.to_thread(load, path, context)
            cluster = self._by_context.get((path, config.context))
            if cluster is None:
                cluster = LaptopCluster(path, config, self._forwards, self._on_save)
                self._by_context[path, config.context] = cluster
            elif asked is not None:
                log.info("the kubeconfig has changed", extra={"context": config.context})
                cluster.use(config)
            self._asked[path, context] = version, cluster
            return cluster


def _version(path: str | None) -> _Version:
    files = []
    for name in kubeconfig.find(path):
        try:
            found = os.stat(name)
        except OSError:
            continue
        files.append((name, found.st_ino, found.st_size, found.st_mtime_ns))
    return tuple(files)
