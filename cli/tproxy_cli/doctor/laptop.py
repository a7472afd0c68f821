"""Checks of the laptop: what the daemon runs on, its places, and the daemon itself."""

import importlib.util
import platform
import sys
from collections.abc import Callable
from pathlib import Path

from tproxy.errors import TproxyError
from tproxy.model.direct import Transport
from tproxy.version import VERSION
from tproxy_cli import config, paths
from tproxy_cli.client import MEMORY_SECONDS, Daemon, NotRunningError
from tproxy_cli.doctor.finding import Finding, failed

CATEGORY = "laptop"
OLDEST_PYTHON = (3, 11)


def check() -> list[Finding]:
    """All checks; none takes long, the daemon's at most some seconds."""
    return [
        _python(),
        _system(),
        _uvloop(),
        _run(),
        _place("runtime-directory", paths.runtime_dir),
        _place("state-directory", paths.state_dir),
        _configuration(),
        daemon(),
    ]


def daemon() -> Finding:
    """Whether the daemon answers, and is of our version."""
    try:
        version = Daemon().version()
    except NotRunningError:
        return Finding(CATEGORY, "daemon", "pass", "not running; it starts when it is needed")
    except TproxyError as error:
        return failed(CATEGORY, "daemon", error)
    if version != VERSION:
        return Finding(
            CATEGORY,
            "daemon",
            "warn",
            f"is of version {version}, this command of version {VERSION}",
            "`tproxy quit` stops it; the next command starts the new one",
        )
    return Finding(CATEGORY, "daemon", "pass", f"running, version {version}")


def transport(context: str) -> Transport:
    """How the daemon reaches the nodes of a context."""
    try:
        clusters = Daemon().call("/v1/status", seconds=MEMORY_SECONDS)["clusters"]
    except (TproxyError, KeyError):
        clusters = []
    direct = any(one.get("context") == context and one.get("transport") == "direct" for one in clusters)
    return "direct" if direct else "port-forward"


def _python() -> Finding:
    version = platform.python_version()
    if sys.version_info < OLDEST_PYTHON:
        wanted = ".".join(map(str, OLDEST_PYTHON))
        return Finding(CATEGORY, "python", "fail", f"is {version}, too old", f"install tproxy with Python {wanted}")
    return Finding(CATEGORY, "python", "pass", version)


def _system() -> Finding:
    release = platform.release()
    text = f"{platform.system()} {release} {platform.machine()}"
    # Its successor calls itself "microsoft-standard-WSL2".
    if release.endswith("-Microsoft"):
        return Finding(CATEGORY, "system", "fail", f"{text} is WSL 1", "move it to WSL 2: `wsl --set-version NAME 2`")
    if platform.system() not in ("Linux", "Darwin"):
        return Finding(CATEGORY, "system", "fail", f"{text} is not supported", "use Linux, macOS or WSL 2")
    return Finding(CATEGORY, "system", "pass", text)


def _uvloop() -> Finding:
    if importlib.util.find_spec("uvloop") is None:
        return Finding(
            CATEGORY,
            "uvloop",
            "warn",
            "is not installed: the tunnel is slower",
            f"`{sys.executable} -m pip install uvloop`",
        )
    return Finding(CATEGORY, "uvloop", "pass", "installed")


def _run() -> Finding:
    """Whether `tproxy run` can work; nothing else needs what it needs."""
    if sys.platform != "linux":
        return Finding(CATEGORY, "run", "warn", "`tproxy run` needs Linux", "use a Linux container, or WSL 2, for it")
    from tproxy_cli.run.probe import probe

    found = probe()
    if found.trouble is not None:
        return Finding(CATEGORY, "run", "warn", f"`tproxy run`: {found.trouble.message}", found.trouble.hint)
    if not found.asks:
        return Finding(
            CATEGORY,
            "run",
            "warn",
            "`tproxy run` works, but the kernel has no packet queue: connections are accepted before the far end is",
            "`sudo modprobe -a nfnetlink_queue xt_NFQUEUE`",
        )
    return Finding(CATEGORY, "run", "pass", f"`tproxy run` works, for IPv4{' and IPv6' if found.families > 1 else ''}")


def _place(name: str, find: Callable[[], Path]) -> Finding:
    try:
        return Finding(CATEGORY, name, "pass", str(find()))
    except TproxyError as error:
        return failed(CATEGORY, name, error)


def _configuration() -> Finding:
    path = paths.config_path()
    try:
        values = config.load()
    except TproxyError as error:
        return failed(CATEGORY, "configuration", error)
    return Finding(CATEGORY, "configuration", "pass", str(path) if values else "no file, defaults hold")
