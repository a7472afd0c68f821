"""`--env-file` and `--files` of `tproxy intercept`: checked before anything is changed, done once pods are steered."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tproxy.env.environ import FILES_VARIABLE
from tproxy.errors import ConflictError, InvalidError
from tproxy.model.pod import Pod
from tproxy.model.workload import TargetQuery
from tproxy_cli.daemon.given.directory import FilesDirectory, overlap
from tproxy_cli.daemon.given.reader import GivenReader
from tproxy_cli.daemon.given.source import choose
from tproxy_cli.daemon.held import Held
from tproxy_cli.daemon.requests import InterceptRequest
from tproxy_cli.daemon.session import LaptopSession
from tproxy_cli.daemon.state import LaptopPort

if TYPE_CHECKING:
    from tproxy_cli.daemon.cluster import LaptopCluster

FILES_SECONDS = 20.0

Json = dict[str, Any]


class Given:
    """What one request wants of the container."""

    def __init__(
        self, cluster: "LaptopCluster", namespace: str, request: InterceptRequest, say: Callable[[str], None]
    ) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._request = request
        self._say = say

    @property
    def wanted(self) -> bool:
        """Whether anything is."""
        return self._request.environment is not None or bool(self._request.files)

    def check(self, pods: Sequence[Pod], ports: Sequence[LaptopPort]) -> None:
        """Raise `InvalidError`, `ClusterError` or TproxyError for what cannot be done."""
        if self._request.container and not self.wanted:
            raise InvalidError("`--container` says whose environment or files, but none are asked for")
        if not self.wanted:
            return
        choose(pods, {port.pod.port for port in ports}, self._request.container)
        if self._request.files:
            self._check_directory()

    def _check_directory(self) -> None:
        FilesDirectory(Path(self._request.files)).check()
        for session in self._cluster.live_sessions():
            for held in session.held.values():
                if overlap(held.saved.files, self._request.files):
                    if held.saved.files == self._request.files and _is_target(held, self._request.target):
                        continue  # asked for once more
                    raise ConflictError(
                        f"{held.saved.files} has the files of {held.saved.target}", "take another directory"
                    )

    async def bring(self, session: LaptopSession, held: Held, pods: Sequence[Pod]) -> Json:
        """Read what is wanted; the part of the answer that has it. Raises TproxyError."""
        brought: Json = {}
        if self._request.environment is not None:
            source = choose(pods, {port.pod.port for port in held.saved.ports}, self._request.container)
            self._say(f"reading the environment of {source}")
            reader = GivenReader(session, lambda: self._cluster.api)
            variables = self._request.environment.select(await reader.environment(source))
            if self._request.files:
                variables[FILES_VARIABLE] = self._request.files
            brought["environment"] = self._request.environment.render(variables)
            brought["source"] = {"pod": source.pod, "container": source.container}
        if self._request.files:
            self._say(f"copying files to {self._request.files}")
            count = await self._cluster.copies[self._namespace].begin(held, FILES_SECONDS)
            brought["files"] = {"directory": self._request.files, "count": count}
        return brought


def _is_target(held: Held, query: TargetQuery) -> bool:
    target = held.saved.target
    return target.name == query.name and query.kind in (None, target.kind)
