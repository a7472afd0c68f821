"""Reads what a container was given: through the tunnel to its node or, if the node says so, with the user's rights."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

from tproxy.env import environ
from tproxy.env.archive import ArchiveError, File, unpack
from tproxy.env.records import RecordKind
from tproxy.errors import ClusterError
from tproxy.kube.port import Cluster
from tproxy.tunnel.endpoint import Endpoint
from tproxy_cli.daemon.given import rights
from tproxy_cli.daemon.given.answer import read
from tproxy_cli.daemon.given.source import Source
from tproxy_cli.daemon.session import LaptopSession

TUNNEL_SECONDS = 15.0
"""How long a tunnel to the pod's node may take to stand."""


class GivenReader:
    """Reads through the tunnels of `session`; `api` gives the way to the API server as it is now."""

    def __init__(self, session: LaptopSession, api: Callable[[], Cluster]) -> None:
        self._session = session
        self._api = api

    async def environment(self, source: Source) -> dict[str, str]:
        """The whole environment of the container's first process. Raises TproxyError."""
        endpoint = await self._endpoint(source.node)
        async with aclosing(read(endpoint, source, "environ")) as records:  # type: ignore[type-var]
            async for kind, payload in records:
                if kind is RecordKind.OWN_RIGHTS:
                    return await rights.environment(self._api(), source)
                if kind is RecordKind.ENVIRON:
                    return environ.parse(payload)
        raise _no_answer(source)

    async def files(self, source: Source) -> AsyncIterator[list[File]]:
        """The container's files, and all of them again whenever one has changed, for ever. Raises TproxyError."""
        endpoint = await self._endpoint(source.node)
        async with aclosing(read(endpoint, source, "files")) as records:  # type: ignore[type-var]
            async for kind, payload in records:
                if kind is RecordKind.OWN_RIGHTS:
                    break
                if kind is RecordKind.FILES:
                    try:
                        yield unpack(payload)
                    except ArchiveError as error:
                        raise ClusterError(
                            f"the node daemon sent {error}", "`tproxy version` compares versions"
                        ) from error
            else:
                raise _no_answer(source)
        async for files in rights.follow_files(self._api, source):
            yield files

    async def _endpoint(self, node: str) -> Endpoint:
        deadline = time.monotonic() + TUNNEL_SECONDS
        self._session.tunnels.want([node])
        while True:
            changed = self._session.changed
            view = next((view for view in self._session.tunnels.views() if view.node == node), None)
            if view is not None and view.endpoint is not None:
                return view.endpoint
            if view is not None and view.hopeless is not None:
                raise view.hopeless
            if not await self._session.wait_changed(changed, deadline - time.monotonic()):
                why = f": {view.error}" if view is not None and view.error else ""
                raise ClusterError(f"no tunnel to node {node}{why}", "`tproxy doctor` checks the cluster side")


def _no_answer(source: Source) -> ClusterError:
    return ClusterError(f"the node daemon said nothing about {source}", "`tproxy version` compares versions")
