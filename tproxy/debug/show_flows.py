"""The answer to `flows` for people."""

from collections.abc import Iterable, Sequence
from typing import Any

from tproxy.debug.answer import Json
from tproxy.text.table import cell, render
from tproxy.text.units import latency, size

COLUMNS = ("TIME", "STATE", "CLIENT", "TO", "POD", "WENT-TO", "BECAUSE", "INTERCEPT", "IN", "OUT", "TOOK", "END")
_WIDTHS = (12, 7, 21, 21, 28, 8, 9, 24, 7, 7, 7, 0)

MATCHED = {"matched": "laptop", "passed": "app", "fallback": "app", "failed": "nobody"}
BECAUSE = {"matched": "match", "passed": "no-match", "fallback": "fallback", "failed": "failed"}


def text(answer: Sequence[Json]) -> str:
    """All of it."""
    rows = [row(one) for one in answer if "flow" in one or "request" in one]
    lines = [render(COLUMNS, rows)] if rows else ["no connections: nothing has come to an intercepted port here"]
    staying = [one["staying"] for one in answer if "staying" in one]
    if staying:
        lines.append("")
    lines += [
        f"{one['pod']}: connections to port {one['port']} still with the app, from before its intercept:"
        f" {one['connections']} ({one['why']})"
        for one in staying
    ]
    return "\n".join(lines)


def row(one: Json) -> list[object]:
    """One event's cells."""
    if "request" in one:
        return _request(one["request"])
    flow: dict[str, Any] = one["flow"]
    return [
        _clock(flow["began"]),
        one.get("what") or flow["state"],
        flow["client"],
        flow["destination"] + ("" if flow["protocol"] == "TCP" else "/udp"),
        flow["pod"],
        flow["decision"],
        flow["reason"],
        flow["intercept"] or None,
        None if flow["received"] is None else size(flow["received"]),
        None if flow["sent"] is None else size(flow["sent"]),
        latency(flow["seconds"]),
        flow["end"] or _waiting(flow),
    ]


def line(cells: Iterable[object]) -> str:
    """One row of a table whose other rows are not known yet."""
    padded = (cell(value).ljust(width) for value, width in zip(cells, _WIDTHS, strict=True))
    return "   ".join(padded).rstrip()


def _request(request: dict[str, Any]) -> list[object]:
    outcome = request["outcome"]
    return [
        _clock(request["at"]),
        "request",
        request["client"],
        request["destination"],
        request["pod"],
        MATCHED.get(outcome, outcome),
        BECAUSE.get(outcome, outcome),
        request["intercept"] or None,
        None,
        None,
        latency(request["seconds"]),
        f"status {request['status']}" if request["status"] else None,
    ]


def _waiting(flow: dict[str, Any]) -> str | None:
    """What holds an open connection up."""
    if flow.get("tunnelQueued") and not flow.get("tunnelCredit"):
        return f"{size(flow['tunnelQueued'])} wait for the local app to read"
    return f"{size(flow['tunnelQueued'])} wait for the tunnel" if flow.get("tunnelQueued") else None


def _clock(iso: str) -> str:
    """The time of day, of the node's clock in UTC."""
    return iso.partition("T")[2][:12]
