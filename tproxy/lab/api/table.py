"""Tables as `kubectl get` asks for: the server names the columns and fills the cells."""

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from tproxy.kube.port import Object
from tproxy.lab.api.resources import Kind

Cells = dict[str, Any]
"""Cell values by column title, in order. A title that ends in `*` is shown by `-o wide` only."""

Render = Callable[[Object], Object]

_PATH_STEP = re.compile(r"\.([A-Za-z0-9_-]+)|\['([^']+)'\]|\[(\d+|\*)\]")


def age(timestamp: str | None) -> str:
    """The time since then, as kubectl shortens it."""
    if not timestamp:
        return "<unknown>"
    seconds = int((datetime.now(UTC) - datetime.fromisoformat(timestamp)).total_seconds())
    if seconds < 120:
        return f"{max(seconds, 0)}s"
    if seconds < 600:
        return f"{seconds // 60}m{seconds % 60}s" if seconds % 60 else f"{seconds // 60}m"
    if seconds < 3 * 3600:
        return f"{seconds // 60}m"
    return f"{seconds // 3600}h" if seconds < 48 * 3600 else f"{seconds // 86400}d"


def lookup(obj: Any, path: str) -> list[Any]:
    """The values at a JSON path of the kind that printer columns use: names, indexes and `[*]`."""
    found = [obj]
    for name, quoted, index in _PATH_STEP.findall(path):
        deeper: list[Any] = []
        for value in found:
            if index == "*":
                deeper += value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
            elif index:
                deeper += value[int(index) : int(index) + 1] if isinstance(value, list) else []
            elif isinstance(value, dict) and (name or quoted) in value:
                deeper.append(value[name or quoted])
        found = deeper
    return found


def _pod(pod: Object) -> Cells:
    status = pod.get("status", {})
    containers = status.get("containerStatuses", [])
    reasons = [c["state"][state].get("reason") for c in containers for state in c.get("state", {})]
    shown = "Terminating" if "deletionTimestamp" in pod["metadata"] else next(filter(None, reasons), None)
    return {
        "Ready": f"{sum(bool(c.get('ready')) for c in containers)}/{len(pod['spec'].get('containers', []))}",
        "Status": shown or status.get("phase", "Unknown"),
        "Restarts": sum(c.get("restartCount", 0) for c in containers),
        "Age": age(pod["metadata"]["creationTimestamp"]),
        "IP*": status.get("podIP") or "<none>",
        "Node*": pod["spec"].get("nodeName") or "<none>",
    }


def _deployment(deployment: Object) -> Cells:
    status = deployment.get("status", {})
    return {
        "Ready": f"{status.get('readyReplicas', 0)}/{deployment['spec'].get('replicas', 1)}",
        "Up-to-date": status.get("updatedReplicas", 0),
        "Available": status.get("availableReplicas", 0),
    }


def _service(service: Object) -> Cells:
    spec = service["spec"]
    return {
        "Type": spec.get("type", "ClusterIP"),
        "Cluster-IP": spec.get("clusterIP") or "<none>",
        "External-IP": "<none>",
        "Port(s)": ",".join(
            f"{port['port']}{':' if 'nodePort' in port else ''}{port.get('nodePort', '')}/{port.get('protocol', 'TCP')}"
            for port in spec.get("ports", [])
        )
        or "<none>",
        "Age": age(service["metadata"]["creationTimestamp"]),
        "Selector*": ",".join(f"{key}={value}" for key, value in (spec.get("selector") or {}).items()) or "<none>",
    }


def _node(node: Object) -> Cells:
    status = node.get("status", {})
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", []))
    addresses = [a["address"] for a in status.get("addresses", []) if a["type"] == "InternalIP"]
    return {
        "Status": "Ready" if ready else "NotReady",
        "Roles": "<none>",
        "Age": age(node["metadata"]["creationTimestamp"]),
        "Version": status.get("nodeInfo", {}).get("kubeletVersion", ""),
        "Internal-IP*": addresses[0] if addresses else "<none>",
    }


def _endpointslice(slice_: Object) -> Cells:
    addresses = [address for e in slice_.get("endpoints") or [] for address in e["addresses"]]
    return {
        "AddressType": slice_["addressType"],
        "Ports": ",".join(str(port.get("port")) for port in slice_.get("ports") or []) or "<unset>",
        "Endpoints": ",".join(addresses[:3]) or "<unset>",
    }


_CELLS: dict[str, Callable[[Object], Cells]] = {
    "ConfigMap": lambda obj: {"Data": len(obj.get("data") or {}) + len(obj.get("binaryData") or {})},
    "Deployment": _deployment,
    "EndpointSlice": _endpointslice,
    "Namespace": lambda obj: {"Status": obj["status"]["phase"]},
    "Node": _node,
    "Pod": _pod,
    "Service": _service,
}


def _custom(kind: Kind, obj: Object) -> Cells:
    cells: Cells = {}
    for column in kind.columns:
        values = lookup(obj, column.path)
        if column.type == "date":
            value: Any = age(values[0] if values else None)
        else:
            value = values[0] if len(values) == 1 else ",".join(map(str, values)) or None
        cells[column.name + ("*" if column.priority else "")] = value
    return cells


def table(kind: Kind, objects: Sequence[Object], version: str, include: str) -> Object:
    """A `Table` of the objects; `include` is `None`, `Metadata` or `Object`, as the client asked."""
    builtin = _CELLS.get(kind.resource.kind)
    rows = [{"Name": obj["metadata"]["name"]} | (builtin(obj) if builtin else _custom(kind, obj)) for obj in objects]
    if "Age" not in (rows[0] if rows else {}):
        rows = [
            row | {"Age": age(obj["metadata"]["creationTimestamp"])} for row, obj in zip(rows, objects, strict=True)
        ]
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": version},
        "columnDefinitions": list(_definitions(rows[0] if rows else {"Name": "", "Age": ""})),
        "rows": [
            {"cells": list(row.values())} | _included(obj, include) for row, obj in zip(rows, objects, strict=True)
        ],
    }


def wanted(http: web.Request) -> bool:
    """Whether the client prefers a table."""
    return "as=Table" in http.headers.get("Accept", "")


def renderer(http: web.Request, kind: Kind) -> Render:
    """How a single object is shown to this client: as itself, or as a table of one row."""
    if not wanted(http):
        return lambda obj: obj
    include = http.query.get("includeObject", "Metadata")
    return lambda obj: table(kind, [obj], obj["metadata"]["resourceVersion"], include)


def _definitions(titles: Iterable[str]) -> Iterable[Object]:
    for title in titles:
        name, priority = title.removesuffix("*"), int(title.endswith("*"))
        form = "name" if name == "Name" else ""
        yield {"name": name, "type": "string", "format": form, "description": "", "priority": priority}


def _included(obj: Object, include: str) -> Object:
    if include == "None":
        return {}
    if include == "Object":
        return {"object": obj}
    return {"object": {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}}
