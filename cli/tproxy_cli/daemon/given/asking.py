"""`tproxy env`: read a container's environment without an intercept, through a Session made for that moment."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from tproxy.errors import ClusterError
from tproxy.kube.workloads import resolve
from tproxy.tasks import Tasks
from tproxy_cli.daemon.cluster import LaptopCluster
from tproxy_cli.daemon.dial import no_daemon
from tproxy_cli.daemon.given.reader import GivenReader
from tproxy_cli.daemon.given.source import choose
from tproxy_cli.daemon.requests import EnvironmentRequest
from tproxy_cli.daemon.session import LaptopSession

RESUME_SECONDS = 15.0

Json = dict[str, Any]
Progress = Callable[[str], None]


async def ask(
    cluster: LaptopCluster, namespace: str, request: EnvironmentRequest, say: Progress, undoing: Tasks
) -> Json:
    """The environment as text. The Session ends with this unless somebody else uses it. Raises TproxyError."""
    say(f"looking for {request.target.name} in namespace {namespace}")
    _, resolved, daemons, user = await asyncio.gather(
        cluster.check_access(namespace),
        resolve(cluster.api, namespace, request.target),
        cluster.node_daemons(),
        cluster.user(),
    )
    source = choose(resolved.pods, container=request.container)
    if source.node not in daemons:
        raise no_daemon(source.node)
    session = await _session(cluster, namespace, user)
    session.keep_for(request, [source.node])
    try:
        session.prepare()
        await session.begin()
        say(f"reading the environment of {source}")
        variables = await GivenReader(session, lambda: cluster.api).environment(source)
    finally:
        await asyncio.shield(undoing.start(session.release(request), "release"))
    return {
        "environment": request.form.render(request.form.select(variables)),
        "source": {"pod": source.pod, "container": source.container},
    }


async def _session(cluster: LaptopCluster, namespace: str, user: str) -> LaptopSession:
    """Our session here; if an earlier daemon's is being taken up, once it has been."""
    deadline = time.monotonic() + RESUME_SECONDS
    while True:
        session = cluster.session(namespace, user)
        changed = session.changed
        if not session.resuming:
            return session
        if not await session.wait_changed(changed, deadline - time.monotonic()):
            raise ClusterError("the session of an earlier daemon could not be taken up in time", "try again")
