"""What the lab needs of the machine it runs on."""

import os
import shutil
import sys
from pathlib import Path

from tproxy.errors import TproxyError
from tproxy.lab import cgroup
from tproxy.lab.layout import BIN, PATH

_PACKAGES = {"ip": "iproute2", "nft": "nftables", "nsenter": "util-linux", "unshare": "util-linux", "mount": "mount"}


def require_root(what: str) -> None:
    """Raises TproxyError unless the process is root's: namespaces, links and cgroups are made."""
    if os.geteuid() != 0:
        raise TproxyError(f"`tproxy lab {what}` needs root", f"`sudo {BIN}/tproxy lab {what}`")


def check() -> None:
    """Raises TproxyError naming what this machine lacks."""
    if not sys.platform.startswith("linux"):
        raise TproxyError("the lab is made of Linux network namespaces", "run it on a Linux machine, or in a VM")
    cgroup.mount_point()
    missing = [tool for tool in _PACKAGES if shutil.which(tool, path=PATH) is None]
    if missing:
        packages = " ".join(dict.fromkeys(_PACKAGES[tool] for tool in missing))
        raise TproxyError(f"not installed: {', '.join(missing)}", f"`apt-get install {packages}`")
    if not Path("/etc/resolv.conf").exists():
        raise TproxyError("/etc/resolv.conf is missing, and places need one to cover", "`touch /etc/resolv.conf`")
