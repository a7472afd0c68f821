"""A trace for people: an event to a line, and at the end how much there was of what."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from tproxy.text.printable import printable
from tproxy.trace import histogram

Json = Mapping[str, Any]

COLUMNS = ("TIME", "EVENT", "POD", "LOCAL", "REMOTE", "WHAT")
_WIDTHS = (15, 14, 28, 24, 24, 0)

_REFUSED = "connection refused, for want of room in the accept queue"
_LEFT = {
    "lease_expired": "left to the app: the daemon did not renew its lease",
    "no_listener": "left to the app: the relay's listener was missing",
    "passed": "left to the app: a health check, and the app does not listen",
}
_DECIDED = {
    "intercept": "of its intercept",
    "existing": "the app had it before its intercept",
    "personal": "each request is decided on its own",
    "probe": "it is a health check",
    "left": "its intercept was left meanwhile",
    "limit": "its session has as many connections as it may have",
    "no_tunnel": "its session has no tunnel to this node",
}


class TraceText:
    """What to print of an answer to `trace`, piece by piece: `output` is `table`, or `json` for an object to a line."""

    def __init__(self, output: str) -> None:
        self.watching: int | None = None
        self._json = output == "json"
        self._summary: Json | None = None

    def feed(self, one: Json) -> Iterator[str]:
        """Lines for this piece of the answer."""
        if "summary" in one:
            self._summary = one["summary"] if isinstance(one["summary"], Mapping) else {}
        elif "watching" in one:
            if self.watching is None and not self._json:
                yield line(COLUMNS)
            self.watching = int(_number(one["watching"]))
        elif "event" in one:
            yield json.dumps(one, ensure_ascii=False) if self._json else line(row(one))

    def end(self) -> Iterator[str]:
        """Lines for the end, however that comes: how much there was of what."""
        if self._summary is None:
            return
        if self._json:
            yield json.dumps({"summary": self._summary}, ensure_ascii=False)
        else:
            yield from ("", *summary(self._summary))

    @property
    def watched(self) -> str:
        """How many pods are traced, for people."""
        return "1 pod" if self.watching == 1 else f"{self.watching or 0} pods"


def line(cells: Sequence[object]) -> str:
    """Cells in columns, which are as wide as most need them: what is to come is not known."""
    texts = [printable(str(cell)) for cell in cells]
    return "  ".join(text.ljust(width) for text, width in zip(texts, _WIDTHS, strict=True)).rstrip()


def row(event: Json) -> tuple[str, ...]:
    """An event's cells."""
    moment = datetime.fromtimestamp(_number(event.get("time"))).astimezone()
    return (
        moment.strftime("%H:%M:%S.%f"),
        str(event.get("event", "")),
        f"{event.get('namespace', '')}/{event.get('pod', '')}",
        str(event.get("local", "")) or "-",
        str(event.get("remote", "")) or "-",
        _what(event),
    )


def _what(event: Json) -> str:
    match event.get("event"):
        case "state":
            times = [
                f"{word} {histogram.duration(int(_number(event[name])))}"
                for name, word in (("connectMicroseconds", "handshake"), ("openMicroseconds", "open for"))
                if name in event
            ]
            return "  ".join([f"{event.get('from')} -> {event.get('to')}", *times, *_app_has(event)])
        case "drop":
            return f"{event.get('protocol')} {event.get('direction')} {event.get('reason')}".rstrip()
        case "overflow":
            count = int(_number(event.get("refused")))
            waiting = f", {event.get('waiting')} waiting of {event.get('room')}" if event.get("local") else ""
            return f"{count}x {_REFUSED}{waiting}"
        case "steer":
            return _steered(event)
        case _:
            return " ".join(str(event[name]) for name in ("state", "reason") if event.get(name)) or "-"


def _app_has(event: Json) -> Iterator[str]:
    """That a new connection is the app's for being to another port than those intercepted."""
    ports = event.get("intercepted")
    if isinstance(ports, Sequence) and ports:
        yield f"the app's: of this pod {', '.join(map(str, ports))} is intercepted"


def _steered(event: Json) -> str:
    protocol = f"{event['protocol']} " if event.get("protocol", "TCP") != "TCP" else ""
    verdict, reason = str(event.get("verdict")), str(event.get("reason"))
    whose = f" {event['intercept']}" if event.get("intercept") else ""
    if "count" in event:
        return f"{protocol}{event['count']}x {_LEFT.get(verdict, verdict)}"
    if verdict == "request":
        return f"request {reason}{whose}"
    return f"{protocol}{verdict}: {_DECIDED.get(reason, reason)}{whose}"


def summary(found: Json) -> list[str]:
    """What there was, in lines."""
    events = _counts(found.get("events"))
    lines = [
        f"{_number(found.get('seconds')):.1f} s: "
        + (", ".join(f"{count} {name}" for name, count in events.items() if count) or "nothing happened")
    ]
    for name, what in (("omitted", "more than --rate allows"), ("lost", "faster than they could be read")):
        if count := int(_number(found.get(name))):
            lines.append(f"{count} events are counted and not shown: they came {what}")
    drops = sorted(_counts(found.get("drops")).items(), key=lambda item: -item[1])
    if drops:
        lines.append("dropped packets: " + ", ".join(f"{count} {name or 'without a reason'}" for name, count in drops))
    for name, what in (("connectSlots", "handshakes of connections that pods opened"), ("openSlots", "open for")):
        slots = [int(_number(count)) for count in found.get(name) or ()]
        if any(slots):
            half, most = (histogram.duration(histogram.quantile(slots, part)) for part in (0.5, 0.99))
            lines += ["", f"{what}: {sum(slots)}, half within {half}, 99 % within {most}", *histogram.draw(slots)]
    return [printable(text) for text in lines]


def _counts(value: object) -> dict[str, int]:
    return {str(name): int(_number(count)) for name, count in value.items()} if isinstance(value, Mapping) else {}


def _number(value: object) -> float:
    return value if isinstance(value, int | float) else 0
