"""A session of a namespace and its tunnel to a node, for those who need them for a moment and wait for them."""

import time
from typing import TYPE_CHECKING

from tproxy.errors import ClusterError
from tproxy.tunnel.endpoint import Endpoint
from tproxy_cli.daemon.session import LaptopSession

if TYPE_CHECKING:
    from tproxy_cli.daemon.cluster import LaptopCluster

RESUME_SECONDS = 15.0
TUNNEL_SECONDS = 15.0
"""How long a tunnel may take to stand."""


async def session_in(cluster: "LaptopCluster", namespace: str, user: str) -> LaptopSession:
    """Our session there; if an earlier daemon's is being taken up, once it has been."""
    deadline = time.monotonic() + RESUME_SECONDS
    while True:
        session = cluster.session(namespace, user)
        changed = session.changed
        if not session.resuming:
            return session
        if not await session.wait_changed(changed, deadline - time.monotonic()):
            raise ClusterError("the session of an earlier daemon could not be taken up in time", "try again")


async def endpoint_of(session: LaptopSession, node: str) -> Endpoint:
    """The tunnel to `node`, once it stands. Raises TproxyError."""
    deadline = time.monotonic() + TUNNEL_SECONDS
    session.tunnels.want([node])
    while True:
        changed = session.changed
        view = next((view for view in session.tunnels.views() if view.node == node), None)
        if view is not None and view.endpoint is not None:
            return view.endpoint
        if view is not None and view.hopeless is not None:
            raise view.hopeless
        if not await session.wait_changed(changed, deadline - time.monotonic()):
            why = f": {view.error}" if view is not None and view.error else ""
            raise ClusterError(f"no tunnel to node {node}{why}", "`tproxy doctor` checks the cluster side")
