"""`lab exec`: turn the calling process into a command that runs in one of the lab's places.

The process enters the place's cgroup (so that what it leaves running ends with the lab), network namespace and view of
/etc, and becomes the command: terminal, standard streams, signals and exit status are the command's own.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tproxy.errors import InvalidError, TproxyError
from tproxy.lab.enter import enter
from tproxy.lab.layout import DEVELOPERS, PATH, Layout

Facts = Mapping[str, Any]

NOT_FOUND = 127
_PROXIES = {"http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy"}


@dataclass(frozen=True, slots=True)
class Entrance:
    """How to get into a place: whose namespaces, which cgroup, which environment and directory."""

    holder: int
    group: Path
    environment: Mapping[str, str]
    directory: str


def find(layout: Layout, facts: Facts, place: str, container: str = "") -> Entrance:
    """The entrance of `laptop`, `laptop/eve`, `user`, `node/N` or `pod/NAMESPACE/NAME`.

    Raises InvalidError, TproxyError.
    """
    match place.split("/"):
        case ["laptop" | "user" | "router" as name]:
            extra = facts["laptop"]["environment"] if name == "laptop" else {"PATH": PATH}
            return _standing(layout, facts, name, extra)
        case ["laptop", name] if name in DEVELOPERS:
            return _standing(layout, facts, "laptop", layout.developer_environment(name))
        case ["node", name]:
            return _node(layout, facts, name)
        case ["pod", name]:
            return _pod(facts, "default", name, container)
        case ["pod", namespace, name]:
            return _pod(facts, namespace, name, container)
    raise InvalidError(
        f"there is no place {place[:128]!r}", f"places are {', '.join(_places(facts))} and pod/NAMESPACE/NAME"
    )


def become(entrance: Entrance, command: Sequence[str]) -> None:
    """Replace this process by `command` inside. Returns never; raises TproxyError if it cannot be started."""
    if "/" not in command[0] and shutil.which(command[0], path=entrance.environment.get("PATH", PATH)) is None:
        raise TproxyError(f"{command[0]}: command not found in this place", exit_code=NOT_FOUND)
    try:
        (entrance.group / "cgroup.procs").write_text("0")
    except OSError as error:
        raise TproxyError(f"cannot join {entrance.group}: {error.strerror}", "`tproxy lab status`") from error
    line = enter(entrance.holder, command, entrance.directory)
    os.execve(line[0], line, entrance.environment)  # noqa: S606 - no shell is wanted


def _standing(layout: Layout, facts: Facts, place: str, extra: Mapping[str, str]) -> Entrance:
    environment = {name: value for name, value in os.environ.items() if name.lower() not in _PROXIES}
    group = layout.place_cgroup(place) / "exec"
    group.mkdir(exist_ok=True)
    return Entrance(facts["holders"][place], group, {**environment, **extra}, os.getcwd())


def _node(layout: Layout, facts: Facts, name: str) -> Entrance:
    names = [node["name"] for node in facts["nodes"]]
    chosen = f"node{name}" if name.isdecimal() else name
    if chosen not in names:
        raise InvalidError(f"there is no node {name[:64]!r}", f"nodes are {', '.join(map(_node_place, names))}")
    return _standing(layout, facts, chosen, {"PATH": PATH})


def _pod(facts: Facts, namespace: str, name: str, container: str) -> Entrance:
    pod = find_pod(facts, namespace, name)
    running = {one["name"]: one["pid"] for one in pod["containers"]}
    chosen = container or pod["containers"][0]["name"]
    title = f"{pod['namespace']}/{pod['name']}"
    if chosen not in running:
        raise InvalidError(f"pod {title} has no container {chosen!r}", f"it has {', '.join(running)}")
    pid = running[chosen]
    if pid is None or pod["holder"] is None:
        raise TproxyError(f"container {chosen} of pod {title} is not running", f"`tproxy lab logs pod/{title}`")
    try:
        variables = Path("/proc", str(pid), "environ").read_bytes().decode(errors="surrogateescape").split("\0")
        group = _cgroup_of(pid, Path(pod["cgroup"]))
    except OSError as error:
        raise TproxyError(f"container {chosen} of pod {title} has just ended", "try again") from error
    environment = dict(variable.split("=", 1) for variable in variables if "=" in variable)
    if "TERM" in os.environ:
        environment.setdefault("TERM", os.environ["TERM"])
    return Entrance(pid, group, environment, os.readlink(f"/proc/{pid}/cwd"))


def find_pod(facts: Facts, namespace: str, name: str) -> Any:
    """The record of a pod, also by the name of a workload that has only one. Raises InvalidError."""
    pods = {pod["name"]: pod for pod in facts["pods"] if pod["namespace"] == namespace}
    if name in pods:
        return pods[name]
    of_workload = sorted(one for one in pods if one.startswith(f"{name}-"))
    if len(of_workload) == 1:
        return pods[of_workload[0]]
    from tproxy.model.workload import nearest

    near = of_workload or nearest(name, pods) or sorted(pods)
    hint = f"pods there: {', '.join(near[:5])}" if near else "`tproxy lab status` shows all pods"
    raise InvalidError(f"namespace {namespace[:64]!r} has no pod {name[:128]!r}", hint)


def _cgroup_of(pid: int, pod_group: Path) -> Path:
    for line in Path("/proc", str(pid), "cgroup").read_text().splitlines():
        if line.startswith("0::"):
            return pod_group / Path(line.removeprefix("0::")).name
    raise FileNotFoundError(pid)


def _places(facts: Facts) -> list[str]:
    return [
        "laptop",
        *(f"laptop/{name}" for name in DEVELOPERS),
        "user",
        *(_node_place(node["name"]) for node in facts["nodes"]),
    ]


def _node_place(name: str) -> str:
    return f"node/{name.removeprefix('node')}"
