"""What a run's command is given of the container in whose place it runs: variables once, files for as long as it runs.

given = GivenToRun(cluster, namespace, wanted, origin)
await given.environment()                            variables, chosen
async for files in given.files(): ...                the files now, and again whenever they have changed, for ever
await given.close()
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from tproxy.env.archive import pack
from tproxy.env.environ import select
from tproxy.errors import ClusterError, TproxyError
from tproxy.kube.port import PODS
from tproxy.model.pod import Pod
from tproxy.model.workload import PortMapping, parse_ports
from tproxy_cli.daemon.cluster import LaptopCluster
from tproxy_cli.daemon.given.reader import GivenReader
from tproxy_cli.daemon.given.source import Source, choose
from tproxy_cli.daemon.session import LaptopSession
from tproxy_cli.daemon.tunnels import Backoff

log = logging.getLogger(__name__)

LONGEST_RETRY_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class GivenWanted:
    """What is wanted. `ports` of an intercept tell which container is meant; `directory` is one of the laptop's that is
    to have the files, or empty."""

    container: str
    ports: tuple[PortMapping, ...]
    environment: bool
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    files: bool
    directory: str

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> "GivenWanted":
        """Read the part `given` of a run's request. Raises InvalidError, KeyError, TypeError."""
        return cls(
            container=str(body["container"]),
            ports=tuple(parse_ports(str(port)) for port in body["ports"]),
            environment=bool(body["environment"]),
            include=tuple(str(pattern) for pattern in body["include"]),
            exclude=tuple(str(pattern) for pattern in body["exclude"]),
            files=bool(body["files"]),
            directory=str(body["directory"]),
        )


@dataclass(frozen=True, slots=True)
class Files:
    """A container's files as an archive (`tproxy.env.archive`), and the paths where volumes with them are mounted."""

    archive: bytes
    mounts: tuple[str, ...]


class GivenToRun:
    """`origin` says which pod the run's traffic leaves from at the moment, as `namespace/name`, or is empty."""

    def __init__(self, cluster: LaptopCluster, namespace: str, wanted: GivenWanted, origin: Callable[[], str]) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._wanted = wanted
        self._origin = origin
        self._session: LaptopSession | None = None

    async def environment(self) -> dict[str, str]:
        """The variables that are wanted. Raises TproxyError."""
        pod = await self._pod()
        source = self._source(pod)
        variables = await (await self._reader(source.node)).environment(source)
        return select(variables, self._wanted.include, self._wanted.exclude)

    async def files(self) -> AsyncIterator[Files]:
        """The files, and again whenever they have changed. Raises TproxyError only before the first.

        When the pod goes, the one that the run's traffic leaves from then is followed.
        """
        backoff = Backoff(longest=LONGEST_RETRY_SECONDS)
        begun = False
        while True:
            try:
                pod = await self._pod()
                source = self._source(pod)
                mounts = next(one.given for one in pod.containers if one.name == source.container)
                reader = await self._reader(source.node)
                async with aclosing(reader.files(source)) as seen:  # type: ignore[type-var]
                    async for files in seen:
                        begun = True
                        backoff.reset()
                        yield Files(pack(files), mounts)
            except TproxyError as error:
                if not begun:
                    raise
                log.info("files of a run are not followed: %s", error.message)
            await asyncio.sleep(backoff.next())

    async def close(self) -> None:
        """Let go of the session. Idempotent."""
        session, self._session = self._session, None
        if session is not None:
            await session.release(self)

    async def _pod(self) -> Pod:
        namespace, _, name = self._origin().partition("/")
        if not name:
            raise ClusterError("there is no way into the cluster at the moment", "run the command again")
        return Pod.from_object(await self._cluster.api.get(PODS, name, namespace))

    def _source(self, pod: Pod) -> Source:
        numbers = {
            port.number
            for container in pod.containers
            for port in container.ports
            for wanted in self._wanted.ports
            if (wanted.remote or wanted.local) in (port.number, port.name)
        }
        return choose([pod], numbers, self._wanted.container)

    async def _reader(self, node: str) -> GivenReader:
        session = self._cluster.session(self._namespace, await self._cluster.user())
        if session is not self._session:
            await self.close()
            self._session = session
        while session.resuming:
            await session.changed.wait()
        session.keep_for(self, [node])
        session.prepare()
        await session.begin()
        return GivenReader(session, lambda: self._cluster.api)
