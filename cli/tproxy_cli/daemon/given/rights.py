"""What a container was given, as its user may read it from the API server: where node daemons do not read."""

from collections.abc import AsyncIterator, Callable

from tproxy.env.archive import File
from tproxy.errors import DeniedError
from tproxy.kube.port import Cluster
from tproxy_cli.daemon.given.source import Source


async def environment(api: Cluster, source: Source) -> dict[str, str]:
    """The environment that the pod's spec gives the container. Raises TproxyError."""
    raise DeniedError(f"the node daemon does not read the environment of {source}")


async def follow_files(api: Callable[[], Cluster], source: Source) -> AsyncIterator[list[File]]:
    """The files that the pod's spec gives the container, again and again. Raises TproxyError."""
    if source:
        raise DeniedError(f"the node daemon does not read the files of {source}")
    yield []
