"""Where the parts of one lab are: every name and path follows from the lab's name.

`down` relies on this: it needs no record of what a crashed lab had made.

    network namespaces   tproxy-NAME-{router,laptop,user,nodeN,pod-XXXXXXXX}
    processes            cgroup2 tproxy-NAME's tree: <mount>/tproxy-lab-NAME/...
    files                /run/tproxy-lab/NAME/
"""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tproxy.errors import InvalidError
from tproxy.lab import cgroup

RUN = Path("/run/tproxy-lab")
NETNS = Path("/run/netns")
DEFAULT_NAME = "lab"

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,18}[a-z0-9])?")
DEVELOPERS = ("eve", "dora", "debbie")
"""Other developers who share the laptop with its first user: `laptop/eve`."""

_PLACES = r"router|laptop|user|node[1-9]|pod-[0-9a-f]{8}"

BIN = Path(sys.executable).parent
"""Where `tproxy` and the interpreter that has its packages are; first on PATH everywhere in the lab."""

PATH = f"{BIN}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Layout:
    """Names and paths of the lab called `name`."""

    name: str

    def __post_init__(self) -> None:
        """Raises InvalidError for a name that cannot be part of a path."""
        if not _NAME.fullmatch(self.name):
            raise InvalidError(
                f"{self.name[:64]!r} cannot be the name of a lab",
                "use up to 20 lowercase letters, digits and inner hyphens",
            )

    @property
    def option(self) -> str:
        """What a command line needs so that it means this lab; empty for the default one."""
        return "" if self.name == DEFAULT_NAME else f" --name {self.name}"

    @property
    def state(self) -> Path:
        """The lab's files; its existence means that the lab is up, or was when something crashed."""
        return RUN / self.name

    @property
    def records(self) -> Path:
        """What the lab server says about the lab, for processes that are not in it."""
        return self.state / "state.json"

    @property
    def api_socket(self) -> Path:
        """The API server, reachable from the host for root."""
        return self.state / "api.sock"

    @property
    def server_log(self) -> Path:
        """Output of the lab server."""
        return self.state / "server.log"

    def place_directory(self, place: str) -> Path:
        """Files of a place: its part of /etc, and on the laptop the XDG directories."""
        return self.state / "places" / place

    def volume_directory(self, uid: str) -> Path:
        """A pod's volumes."""
        return self.state / "volumes" / uid

    def log_directory(self, namespace: str, pod: str, uid: str) -> Path:
        """Captured output of a pod's containers, `<container>.log` each."""
        return self.state / "logs" / f"{namespace}_{pod}_{uid}"

    @property
    def laptop_kubeconfig(self) -> Path:
        """The kubeconfig that the laptop's commands find."""
        return self.state / "kubeconfig"

    @property
    def daemon_kubeconfig(self) -> Path:
        """The kubeconfig of the node daemons."""
        return self.state / "node-daemon.kubeconfig"

    def daemon_socket(self, node: str) -> Path:
        """Where a node's daemon is asked on the machine itself."""
        return self.state / "asking" / f"{node}.sock"

    @property
    def laptop_environment(self) -> dict[str, str]:
        """What makes commands on the laptop find the lab's cluster and keep their files out of the real home."""
        return self._environment(self.place_directory("laptop"), self.laptop_kubeconfig)

    def developer_kubeconfig(self, name: str) -> Path:
        """The kubeconfig of another developer who shares the laptop."""
        return self.state / f"{name}.kubeconfig"

    def developer_environment(self, name: str) -> dict[str, str]:
        """The same as `laptop_environment` for another developer, with a daemon of her own."""
        return self._environment(self.place_directory("laptop") / name, self.developer_kubeconfig(name))

    @staticmethod
    def _environment(directory: Path, kubeconfig: Path) -> dict[str, str]:
        return {
            "KUBECONFIG": str(kubeconfig),
            "XDG_RUNTIME_DIR": str(directory / "run"),
            "XDG_STATE_HOME": str(directory / "state"),
            "XDG_CONFIG_HOME": str(directory / "config"),
            "PATH": PATH,
        }

    @property
    def cgroup(self) -> Path:
        """Root of the lab's processes. Raises TproxyError without cgroup2."""
        return cgroup.mount_point() / f"tproxy-lab-{self.name}"

    def place_cgroup(self, place: str) -> Path:
        """Processes of a place that are not in a pod."""
        return self.cgroup / place

    def pod_cgroup(self, node: str, uid: str) -> Path:
        """Parent of a pod's containers, in the path form of a kubelet with the cgroupfs driver."""
        return self.cgroup / node / "kubepods" / "burstable" / f"pod{uid}"

    def netns(self, place: str) -> str:
        """Name of a place's network namespace."""
        return f"tproxy-{self.name}-{place}"

    def pod_netns(self, uid: str) -> str:
        """Name of a pod's network namespace."""
        return self.netns(f"pod-{uid[:8]}")

    def present_netns(self) -> Sequence[str]:
        """The lab's network namespaces that exist now."""
        own = re.compile(rf"tproxy-{re.escape(self.name)}-({_PLACES})")
        return sorted(path.name for path in NETNS.glob("tproxy-*") if own.fullmatch(path.name))
