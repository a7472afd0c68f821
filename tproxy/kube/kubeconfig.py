"""Kubeconfig files: where they are, and what several of them say together, by kubectl's rules.

The official client's merger differs from kubectl (the last `current-context` wins there, the first one here) and its
import alone costs 0.3 s and 20 MB, so only credentials that need it (see `credentials`) load it.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tproxy.errors import ClusterError
from tproxy.model.workload import nearest

NO_CLUSTER_HINT = "set KUBECONFIG or pass `--kubeconfig FILE`; for a cluster on this machine: `sudo tproxy lab up`"
BROKEN_HINT = "correct it, or choose another with `--kubeconfig FILE`; `kubectl config view` shows what is there"

_MAX_BYTES = 16 << 20
_PATH_KEYS = ("certificate-authority", "client-certificate", "client-key", "tokenFile")

Entry = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Context:
    """One context with its cluster and user resolved; paths in them are absolute."""

    name: str
    namespace: str
    cluster: Mapping[str, Any]
    user: Mapping[str, Any]
    user_name: str


@dataclass(frozen=True, slots=True)
class Kubeconfig:
    """The merged content of `paths`."""

    paths: tuple[str, ...]
    current: str
    contexts: Mapping[str, Entry]
    clusters: Mapping[str, Entry]
    users: Mapping[str, Entry]

    def context(self, name: str | None) -> Context:
        """The context `name`, or the current one. Raises `ClusterError` naming what is missing."""
        wanted = name or self.current
        where = ":".join(self.paths)
        if not wanted:
            raise ClusterError(
                f"no current context is set in {where}",
                hint=f"choose one with `--context NAME`; {self._existing()}",
            )
        if wanted not in self.contexts:
            raise ClusterError(f'there is no context "{wanted}" in {where}', hint=self._instead_of(wanted))
        context = self.contexts[wanted]
        cluster_name, user_name = str(context.get("cluster", "")), str(context.get("user", ""))
        if not self.clusters.get(cluster_name, {}).get("server"):
            raise ClusterError(
                f'context "{wanted}" names the cluster "{cluster_name}", which has no server in {where}',
                hint="`kubectl config view` shows what is there",
            )
        if user_name and user_name not in self.users:
            raise ClusterError(
                f'context "{wanted}" names the user "{user_name}", who is not in {where}',
                hint="`kubectl config view` shows what is there",
            )
        return Context(
            name=wanted,
            namespace=str(context.get("namespace") or "default"),
            cluster=self.clusters[cluster_name],
            user=self.users.get(user_name, {}),
            user_name=user_name,
        )

    def _instead_of(self, wanted: str) -> str:
        close = nearest(wanted, self.contexts)
        return f"did you mean {' or '.join(f'`{name}`' for name in close)}?" if close else self._existing()

    def _existing(self) -> str:
        names = ", ".join(f"`{name}`" for name in sorted(self.contexts)[:10])
        return f"the contexts there are: {names}" if names else "there are no contexts"


def find(kubeconfig: str | None, environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """The kubeconfig files to read: `kubeconfig` (one or several, as in $KUBECONFIG), else $KUBECONFIG, else the file
    in the home directory. Of several those that exist; empty if there are none and none were asked for by argument.
    """
    environ = os.environ if environ is None else environ
    listed = kubeconfig or environ.get("KUBECONFIG", "")
    if not listed:
        default = Path(environ.get("HOME") or "~").expanduser() / ".kube" / "config"
        return (str(default),) if default.is_file() else ()
    paths = [os.path.expanduser(path) for path in listed.split(os.pathsep) if path]
    found = tuple(path for path in paths if os.path.exists(path))
    if not found:
        raise ClusterError(f"the kubeconfig {', '.join(paths)} does not exist", hint=NO_CLUSTER_HINT)
    return found


def read(paths: tuple[str, ...]) -> Kubeconfig:
    """Read and merge: of each name, and of the current context, the first file that has it wins."""
    current = ""
    merged: dict[str, dict[str, Entry]] = {"contexts": {}, "clusters": {}, "users": {}}
    for path in paths:
        content = _parse(path)
        current = current or str(content.get("current-context") or "")
        for section, entries in merged.items():
            for name, entry in _named(content, section, path):
                entries.setdefault(name, entry)
    return Kubeconfig(paths, current, merged["contexts"], merged["clusters"], merged["users"])


def _parse(path: str) -> Entry:
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_BYTES)
        # libyaml is ten times faster where it is built in, which shows for people with hundreds of clusters.
        content = yaml.load(data, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 (both are safe)
    except OSError as error:
        raise ClusterError(f"the kubeconfig {path} cannot be read: {error.strerror}", BROKEN_HINT) from error
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "it is no YAML"
        raise ClusterError(f"the kubeconfig {path}{where} cannot be parsed: {problem}", BROKEN_HINT) from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ClusterError(f"{path} is no kubeconfig: it holds no mapping", hint=NO_CLUSTER_HINT)
    return content


def _named(content: Entry, section: str, path: str) -> list[tuple[str, Entry]]:
    entries = content.get(section) or []
    if not isinstance(entries, list):
        raise ClusterError(f"the kubeconfig {path} cannot be parsed: {section} is no list", BROKEN_HINT)
    base = os.path.dirname(os.path.abspath(path))
    named = []
    for item in entries:
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            raise ClusterError(
                f"the kubeconfig {path} cannot be parsed: an entry of {section} has no name", BROKEN_HINT
            )
        entry = item.get(section[:-1]) or {}
        if not isinstance(entry, dict):
            raise ClusterError(
                f"the kubeconfig {path} cannot be parsed: {section} {item['name']!r} is no mapping", BROKEN_HINT
            )
        named.append((item["name"], _with_absolute_paths(entry, base)))
    return named


def _with_absolute_paths(entry: Entry, base: str) -> Entry:
    entry = dict(entry)
    for key in _PATH_KEYS:
        if isinstance(entry.get(key), str) and entry[key]:
            entry[key] = os.path.normpath(os.path.join(base, entry[key]))
    plugin = entry.get("exec")
    if isinstance(plugin, dict) and isinstance(plugin.get("command"), str) and os.sep in plugin["command"]:
        entry["exec"] = plugin | {"command": os.path.normpath(os.path.join(base, plugin["command"]))}
    return entry
