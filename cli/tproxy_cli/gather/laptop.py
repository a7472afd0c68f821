"""The laptop's part: versions, the daemon's logs and what it says of itself, how the cluster is reached."""

import platform
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from tproxy.errors import TproxyError
from tproxy.kube import kubeconfig
from tproxy.version import VERSION
from tproxy_cli import config, paths
from tproxy_cli.client import MEMORY_SECONDS, Daemon, Json
from tproxy_cli.daemon.state import StateFile
from tproxy_cli.gather import objects, secrets
from tproxy_cli.gather.archive import ENTRY_BYTES, Archive


def known_secrets(cluster: Json) -> list[str]:
    """Secrets that this laptop can know: its sessions' tokens, what people match by, all users of the kubeconfig."""
    found: list[str] = []
    with suppress(TproxyError, OSError):
        # Not `StateFile.load`, which puts a file aside that it cannot read: nothing is changed here.
        if (path := paths.sessions_path()).exists():
            for session in StateFile(path).peek():
                found += [session.token.hex()]
                for one in session.intercepts:
                    found += secrets.of_match(one.match.to_object() if one.match is not None else None)
    with suppress(TproxyError):
        for user in kubeconfig.read(kubeconfig.find(cluster["kubeconfig"])).users.values():
            found += secrets.of_kubeconfig_user(user)
    return found


def gather(archive: Archive, cluster: Json, tell: Callable[[str], None]) -> None:
    """Add it all."""
    tell("gathering what the laptop knows")
    daemon = Daemon()
    system = {
        "tproxy": VERSION,
        "python": sys.version,
        "system": platform.platform(),
        "machine": platform.machine(),
    }
    archive.data("laptop/versions.json", system)
    archive.attempt("laptop/configuration.json", config.load)
    archive.attempt("laptop/kubeconfig.json", partial(_kubeconfig, cluster))
    for path in (paths.log_path(), paths.log_path().with_suffix(".log.1")):
        if path.exists():
            archive.attempt(f"laptop/{path.name}", partial(_tail, path))
    for name in ("version", "status"):
        archive.attempt(f"laptop/{name}.json", partial(_said, daemon, f"/v1/{name}"))


def _said(daemon: Daemon, path: str) -> Any:
    return objects.matches_removed(daemon.call(path, seconds=MEMORY_SECONDS))


def _kubeconfig(cluster: Json) -> Json:
    found = kubeconfig.find(cluster["kubeconfig"])
    if not found:
        raise TproxyError("no kubeconfig")
    context = kubeconfig.read(found).context(cluster["context"])
    return objects.kubeconfig(
        context.name,
        {"files": list(found), "namespace": context.namespace, "cluster": context.cluster, "user": context.user},
    )


def _tail(path: Path) -> str:
    """The end of a file. Raises OSError."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - ENTRY_BYTES))
        return file.read(ENTRY_BYTES).decode(errors="replace")
