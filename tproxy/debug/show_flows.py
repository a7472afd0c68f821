"""The answer to `flows` for people."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tproxy.debug.answer import Json
from tproxy.text.printable import printable
from tproxy.text.table import cell, render, sentence
from tproxy.text.units import latency, size

COLUMNS = ("TIME", "STATE", "CLIENT", "TO", "POD", "WENT-TO", "BECAUSE", "INTERCEPT", "IN", "OUT", "TOOK", "END")
_WIDTHS = (12, 7, 21, 21, 28, 8, 9, 24, 7, 7, 7)

MATCHED = {"matched": "laptop", "passed": "app", "fallback": "app", "failed": "nobody"}
BECAUSE = {"matched": "match", "passed": "no-match", "fallback": "fallback", "failed": "failed"}


def text(answer: Sequence[Json]) -> str:
    """All of it."""
    rows = [row(one) for one in answer if "flow" in one or "request" in one]
    lines = (
        [render(COLUMNS, rows, last=sentence)]
        if rows
        else ["no connections: nothing has come to an intercepted port here"]
    )
    remarks = [remark for one in answer for remark in remarks_of(one)]
    return "\n".join([*lines, *([""] if remarks else []), *remarks])


def remarks_of(one: Json) -> Iterator[str]:
    """What is not said of one connection, in a line."""
    if "staying" in one:
        told = one["staying"]
        yield (
            f"{told['pod']}: connections to port {told['port']} still with the app, from before its intercept:"
            f" {told['connections']} ({told['why']})"
        )
    if "untouched" in one:
        yield _untouched(one["untouched"])
    if "lost" in one:
        yield f"{one['lost']} events were lost: they came faster than they were taken"


def _untouched(port: dict[str, Any]) -> str:
    number = f"{port['port']}{'' if port['protocol'] == 'TCP' else '/udp'}"
    whose = ", ".join(f"{owner['intercept']} of {owner['user']}@{owner['host']}" for owner in port["owners"])
    said = f"{port['pod']}: nothing has come to port {number}, which {whose} intercepts"
    if port["elsewhere"] and not port["services"]:
        said += f"; no Service sends to it: {', '.join(port['elsewhere'])}"
    return printable(said)


def row(one: Json) -> list[object]:
    """One event's cells."""
    if "request" in one:
        return _request(one["request"])
    flow: dict[str, Any] = one["flow"]
    return [
        _clock(flow["began"]),
        one.get("what") or ("waiting" if flow.get("waits") else flow["state"]),
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
    """One row of a table whose other rows are not known yet: the last cell is a sentence."""
    *others, end = cells
    padded = [cell(value).ljust(width) for value, width in zip(others, _WIDTHS, strict=True)]
    return "   ".join([*padded, sentence(end)])


def event(one: Json) -> Iterator[str]:
    """What one event is to somebody who follows, below a line of `COLUMNS`."""
    if "flow" in one or "request" in one:
        yield line(row(one))
    yield from remarks_of(one)


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
    waits = flow.get("waits")
    if waits is None:
        return None
    queued = f"{size(flow['tunnelQueued'])} wait" if flow.get("tunnelQueued") else "waits"
    match waits["for"]:
        case "laptop" if flow["tunnelQuietSeconds"] == waits["seconds"]:
            return f"{queued} for the laptop, which has said nothing for {waits['seconds']:.1f} s"
        case "laptop":
            return f"{queued} for the laptop to open it, {waits['seconds']:.1f} s so far"
        case "local-app":
            return f"{queued} for the local app to read"
        case "tunnel":
            return f"{queued} for the tunnel"
        case _:
            return f"no answer for {waits['seconds']:.1f} s"


def _clock(iso: str) -> str:
    """The time of day, of the node's clock in UTC."""
    return iso.partition("T")[2][:12]
