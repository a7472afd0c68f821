"""What the daemon needs of its own process, checked before anything is begun, so that lacking it takes one sentence."""

import os
import resource
from pathlib import Path

from tproxy.errors import ClusterError

NEEDED = {
    12: "NET_ADMIN",  # attach to network namespaces
    19: "SYS_PTRACE",  # read other processes' namespaces
    21: "SYS_ADMIN",  # enter them; BPF before 5.8
}


def require(status: Path = Path("/proc/self/status")) -> None:
    """Raises `ClusterError` naming what is missing."""
    if os.geteuid() != 0:
        raise ClusterError(
            "the node daemon must run as root", "on a cluster it is installed by the Helm chart; try `sudo` elsewhere"
        )
    effective = 0
    for line in status.read_text().splitlines():
        if line.startswith("CapEff:"):
            effective = int(line.split()[1], 16)
    missing = [name for bit, name in NEEDED.items() if not effective >> bit & 1]
    if missing:
        names = ", ".join(missing)
        raise ClusterError(
            f"the node daemon lacks the capabilities {names}",
            f"add {names} to the container's `securityContext.capabilities.add`",
        )


def raise_descriptor_limit() -> int:
    """Allow as many descriptors as the hard limit does; returns that."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
