"""How intercepts are shown, in `list` and in `status`."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from tproxy.text.table import render
from tproxy.text.units import age, latency
from tproxy_cli.ui.console import Console

Json = dict[str, Any]

NONE = "no intercepts; start one with `tproxy intercept WORKLOAD --port PORT`"

MATCH_WIDTH = 24
"""Characters of a match that a table shows, unless it is a wide one."""

_ROLES = {"Ready": "good", "Pending": "doubtful", "Conflicted": "bad", "Refused": "bad", "Lost": "bad"}


def table(console: Console, intercepts: Sequence[Json], *, namespaces: bool, wide: bool) -> str:
    """Intercepts as a table, with their namespaces or without."""
    columns = ["NAME", "TARGET", "PORTS", "MATCH", "STATE", "PODS", "USER"]
    if namespaces:
        columns.insert(0, "NAMESPACE")
    if wide:
        columns += ["HOST", "NODES", "REASON"]
    columns.append("AGE")
    rows = [_row(columns, intercept, wide) for intercept in intercepts]

    def paint(column: str, text: str) -> str:
        return console.paint(text, _ROLES[text]) if column == "STATE" and text in _ROLES else text

    return render(columns, rows, paint)


def ports(listed: Sequence[Json]) -> str:
    """`80->3000,9090`: the pod's port, and where on the laptop it ends if that is this laptop."""
    return ",".join(port(one) for one in listed)


def port(one: Json) -> str:
    """One port of `ports`; the protocol only where it is not TCP."""
    protocol = one.get("protocol", "TCP")
    text = f"{one['remote']}" if protocol == "TCP" else f"{one['remote']}/{protocol.lower()}"
    return f"{text}->{one['local']}" if one.get("local") is not None else text


def match(spec: Json | None, wide: bool) -> str:
    """`x-user=ada,path=/api/*`, without spaces; shortened unless `wide`. `<all>`: every connection."""
    if not spec:
        return "<all>"
    text = ",".join(conditions(spec)).replace(" ", "_")
    return text if wide or len(text) <= MATCH_WIDTH else text[: MATCH_WIDTH - 1] + "…"


def conditions(spec: Json | None) -> list[str]:
    """The conditions of `spec.match`, each in a few characters; `=~` before a pattern."""
    if not spec:
        return []
    found = [f"{one['name']}{_relation(one)}{one['value']}" for one in spec.get("headers", ())]
    found += [f"baggage:{one['name']}{_relation(one)}{one['value']}" for one in spec.get("baggage", ())]
    if path := spec.get("path"):
        below = path.get("type") == "PathPrefix"
        found.append(f"path={path['value'].rstrip('/')}/*" if below else f"path{_relation(path)}{path['value']}")
    if method := spec.get("method"):
        found.append(f"method={method}")
    return found


def _relation(condition: Json) -> str:
    return "=~" if condition.get("type") == "RegularExpression" else "="


def troubles(intercepts: Sequence[Json]) -> list[str]:
    """One sentence for each intercept that is not (wholly) steered and says why, or whose files are not current."""
    found = []
    for intercept in intercepts:
        if (files := intercept.get("files")) and files["trouble"]:
            found.append(f"{intercept['name']}: the files in {files['directory']} are not current: {files['trouble']}")
        if intercept["state"] == "Ready":
            continue
        reasons: dict[str, list[str]] = {}
        for node in intercept.get("nodes", ()):
            for one in [*node.get("pods", ()), *([] if node.get("pods") else [node])]:
                if one.get("state") != "Ready" and (text := one.get("message") or one.get("reason")):
                    reasons.setdefault(text, []).append(one.get("name") or node["node"])
        if not reasons and (text := intercept.get("message") or intercept.get("reason")):
            reasons[text] = []
        for text, places in reasons.items():
            where = f" ({', '.join(places)})" if places else ""
            found.append(f"{intercept['name']} is {intercept['state']}: {text}{where}")
    return found


def staying(pod: Json) -> str:
    """How many connections of a pod are still with its app, and why; empty if none are."""
    count = pod.get("connections") or 0
    if not count:
        return ""
    why = f": {pod['staying']}" if pod.get("staying") else ""
    return f"{count} connection{'' if count == 1 else 's'} still with the app{why}"


def with_the_app(intercepts: Sequence[Json]) -> list[str]:
    """One sentence for each intercept that connections from before have not come over to, and why."""
    found = []
    for intercept in intercepts:
        pods = [pod for node in intercept.get("nodes", ()) for pod in node.get("pods", ())]
        reasons = dict.fromkeys(pod["staying"] for pod in pods if pod.get("connections") and pod.get("staying"))
        total = {"connections": sum(pod.get("connections") or 0 for pod in pods), "staying": "; ".join(reasons)}
        if text := staying(total):
            found.append(f"{intercept['name']}: {text}")
    return found


def requests(intercepts: Sequence[Json]) -> str:
    """What became of requests on the ports of personal intercepts, as a table; empty if there are none to tell of."""
    told = [(one["name"], one["requests"]) for one in intercepts if one.get("requests")]
    if not told:
        return ""
    columns = ["REQUESTS", "MATCHED", "PASSED", "FALLBACK", "FAILED", "P50", "P99"]
    rows = [
        [
            name,
            *(counts[kind] for kind in ("matched", "passed", "fallback", "failed")),
            *(None if counts[part] is None else latency(counts[part]) for part in ("p50Seconds", "p99Seconds")),
        ]
        for name, counts in told
    ]
    return render(columns, rows)


def _row(columns: Sequence[str], intercept: Json, wide: bool) -> list[object]:
    pods = intercept.get("pods") or {}
    cells: dict[str, object] = {
        "NAMESPACE": intercept["namespace"],
        "NAME": intercept["name"],
        "TARGET": intercept["target"],
        "PORTS": ports(intercept["ports"]),
        "MATCH": match(intercept.get("match"), wide),
        "STATE": intercept["state"],
        "PODS": f"{pods.get('ready', 0)}/{pods.get('total', 0)}",
        "USER": intercept.get("user"),
        "HOST": intercept.get("host"),
        "NODES": ",".join(node["node"] for node in intercept.get("nodes", ())),
        "REASON": intercept.get("reason"),
        "AGE": since(intercept.get("created")),
    }
    return [cells[column] for column in columns]


def since(moment: str | None) -> str | None:
    """The age of an RFC 3339 time, or None if there is none."""
    if not moment:
        return None
    return age((datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds())
