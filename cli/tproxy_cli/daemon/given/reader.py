"""Reads what a container was given: through the tunnel to its node or, if the node says so, with the user's rights."""

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

from tproxy.env import environ
from tproxy.env.archive import ArchiveError, File, unpack
from tproxy.env.records import RecordKind
from tproxy.errors import ClusterError
from tproxy.kube.port import Cluster
from tproxy_cli.daemon.given import rights
from tproxy_cli.daemon.given.answer import read
from tproxy_cli.daemon.given.source import Source
from tproxy_cli.daemon.session import LaptopSession
from tproxy_cli.daemon.to_node import endpoint_of


class GivenReader:
    """Reads through the tunnels of `session`; `api` gives the way to the API server as it is now."""

    def __init__(self, session: LaptopSession, api: Callable[[], Cluster]) -> None:
        self._session = session
        self._api = api

    async def environment(self, source: Source) -> dict[str, str]:
        """The whole environment of the container's first process. Raises TproxyError."""
        endpoint = await endpoint_of(self._session, source.node)
        async with aclosing(read(endpoint, source, "environ")) as records:  # type: ignore[type-var]
            async for kind, payload in records:
                if kind is RecordKind.OWN_RIGHTS:
                    return await rights.environment(self._api(), source)
                if kind is RecordKind.ENVIRON:
                    return environ.parse(payload)
        raise _no_answer(source)

    async def files(self, source: Source) -> AsyncIterator[list[File]]:
        """The container's files, and all of them again whenever one has changed, for ever. Raises TproxyError."""
        endpoint = await endpoint_of(self._session, source.node)
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


def _no_answer(source: Source) -> ClusterError:
    return ClusterError(f"the node daemon said nothing about {source}", "`tproxy version` compares versions")
