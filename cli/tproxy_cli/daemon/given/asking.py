"""`tproxy env`: read a container's environment without an intercept, through a Session made for that moment."""

import asyncio
from collections.abc import Callable
from typing import Any

from tproxy.kube.workloads import resolve
from tproxy.tasks import Tasks
from tproxy_cli.daemon.cluster import LaptopCluster
from tproxy_cli.daemon.dial import no_daemon
from tproxy_cli.daemon.given.reader import GivenReader
from tproxy_cli.daemon.given.source import choose
from tproxy_cli.daemon.requests import EnvironmentRequest
from tproxy_cli.daemon.to_node import session_in

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
    session = await session_in(cluster, namespace, user)
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
