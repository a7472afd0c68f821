"""What the lab server says about the lab to processes outside of it: one JSON file, replaced atomically.

`status`, `exec` and `logs` read it without asking the server, so they work, and can say what is wrong, when the
server is dead. A pod's record is written before its status is published: what the API says is in the file already.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tproxy.errors import TproxyError
from tproxy.lab import cgroup
from tproxy.lab.layout import Layout

Record = Mapping[str, Any]


class Records:
    """The server's side: facts in, file out."""

    def __init__(self, path: Path, base: Record) -> None:
        """`base` are the facts that never change."""
        self._path = path
        self._base = dict(base)
        self._pods: dict[str, Record] = {}
        self._services: Sequence[Record] = []
        self._state = "starting"

    def set_state(self, state: str, **facts: Any) -> None:
        """`starting` or `up`, with more facts that never change again."""
        self._state = state
        self._base.update(facts)
        self._write()

    def set_api_server(self, serves: bool) -> None:
        """Whether places reach it."""
        self._base["apiServer"] = {**self._base["apiServer"], "state": "up" if serves else "stopped"}
        self._write()

    def set_pod(self, uid: str, record: Record | None) -> None:
        """Replace what is said of a pod; None removes it."""
        if record is None:
            self._pods.pop(uid, None)
        else:
            self._pods[uid] = record
        self._write()

    def set_services(self, services: Sequence[Record]) -> None:
        """Replace what is said of all Services: those whose rules are in force."""
        self._services = services
        self._write()

    def _write(self) -> None:
        pods = sorted(self._pods.values(), key=lambda pod: (pod["namespace"], pod["name"]))
        facts = {**self._base, "state": self._state, "pods": pods, "services": self._services}
        temporary = self._path.with_suffix(".new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(facts, file)
        temporary.rename(self._path)


def server_alive(layout: Layout) -> bool:
    """Whether the lab server runs; it is all that lives in its cgroup."""
    return any(True for _ in cgroup.processes(layout.place_cgroup("server")))


def facts(layout: Layout) -> dict[str, Any]:
    """What is known of the lab, with `state` up, starting, crashed or down. Raises TproxyError."""
    known = read(layout)
    if known is None:
        state = "crashed" if layout.state.exists() else "down"
        if state == "crashed" and server_alive(layout):
            state = "starting"
        return {"name": layout.name, "state": state}
    if not server_alive(layout):
        known["state"] = "crashed"
    daemons = {pod["node"]: pod for pod in known["pods"] if pod["name"] == f"tproxy-node-{pod['node']}"}
    for node in known["nodes"]:
        pod = daemons.get(node["name"])
        node["daemon"] = {"pod": pod["name"], "pid": pod["containers"][0]["pid"]} if pod else None
    return known


def read(layout: Layout) -> dict[str, Any] | None:
    """The facts as last written, or None if there is no lab. Raises TproxyError if the file is no JSON."""
    try:
        facts: dict[str, Any] = json.loads(layout.records.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise TproxyError(f"{layout.records} cannot be read: {error}", "`tproxy lab down`") from error
    return facts
