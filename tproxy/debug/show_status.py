"""The answer to `status` for people."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from tproxy.debug.answer import Json
from tproxy.text.printable import printable
from tproxy.text.table import render
from tproxy.text.units import age, latency, size

Mark = Callable[[str], str]
"""Makes what differs stand out."""


def parts(answer: Iterable[Json], name: str) -> list[dict[str, Any]]:
    """The lines of one kind."""
    return [one[name] for one in answer if name in one]


def text(answer: Sequence[Json], wide: bool = False, mark: Mark = str) -> str:
    """All of it."""
    lines: list[str] = []
    for node in parts(answer, "node"):
        lines += _node(node, wide)
    tunnels = parts(answer, "tunnel")
    lines += ["", _tunnels(tunnels, wide)] if tunnels else ["", "no tunnels: no laptop is connected to this node"]
    pods = parts(answer, "pod")
    lines += ["", _ports(pods, mark)] if pods else ["", "no pod is steered"]
    for pod in pods:
        lines += [f"{pod['pod']}: {mark('differs:')} {printable(one)}" for one in pod["differences"]]
        if wide:
            lines += _details(pod)
    return "\n".join(lines[1:] if lines[0] == "" else lines)


def _node(node: dict[str, Any], wide: bool) -> Iterator[str]:
    yield (
        f"node {node['name']}: version {node['version']}, process {node['pid']}, up {age(node['upSeconds'])}, steers by"
        f" {node['backend']}, Linux {node['kernel']}"
    )
    connections, limits = node["connections"], node["limits"]
    yield (
        f"  {connections['laptop']} connections with laptops, {connections['app']} with apps, of"
        f" {limits['nodeConnections']} at most{': full' if node['full'] else ''}; pods steered: {node['pods']}"
    )
    if node["waitsFor"]:
        yield f"  waits for the API server to list {node['waitsFor']}"
    if wide:
        yield (
            f"  of one session {limits['sessionConnections']} connections and {limits['sessionDials']} dials at most,"
            f" of all {limits['nodeDials']} dials; the lease was renewed at most"
            f" {latency(node['leaseWorstDelaySeconds'])} late; Python {node['python']}"
        )


def _tunnels(tunnels: Sequence[dict[str, Any]], wide: bool) -> str:
    columns = ["SESSION", "USER", "HOST", "RTT", "CONNECTIONS", "RECEIVED", "SENT", "QUEUED", "OLDEST", "QUIET"]
    columns += ["CREDIT", "WAITING", "VERSION"] if wide else []
    rows = []
    for one in tunnels:
        who = [one["session"], one["user"], one["host"]]
        if "lost" in one:
            rows.append([*who, "lost", *[None] * (len(columns) - 4)])
            continue
        more = [size(one["creditHeld"]), one["waitingForCredit"], one["software"]] if wide else []
        rows.append(
            [
                *who,
                latency(one["rttSeconds"]),
                one["connections"],
                *(size(one[name]) for name in ("bytesReceived", "bytesSent", "bytesQueued")),
                latency(one["oldestSeconds"]),
                latency(one["quietSeconds"]),
                *more,
            ]
        )
    lost = [
        f"{one['session']}: no tunnel for {age(one['lostSeconds'])}: {printable(one['lost'])}"
        for one in tunnels
        if "lost" in one
    ]
    return "\n".join([render(columns, rows), *lost])


def _ports(pods: Iterable[dict[str, Any]], mark: Mark) -> str:
    columns = ["POD", "PORT", "OWNER", "INTERCEPT", "MATCH", "SINCE", "STEERED", "OWN", "LATE", "LEASE", "STATE"]
    rows: list[list[object]] = []
    for pod in pods:
        lease = min((one["leaseSeconds"] for one in pod.get("attachments", ()) if one["leaseSeconds"]), default=None)
        for port in pod["ports"]:
            kernel = port.get("kernel") or {}
            state = "ok" if pod["steered"] and not pod["differences"] else "differs"
            for owner in port["owners"] or [{"user": "", "host": "", "intercept": "", "match": "", "since": None}]:
                who = owner["user"] + (f"@{owner['host']}" if owner["host"] else "")
                rows.append(
                    [
                        pod["pod"],
                        port["port"] if port["protocol"] == "TCP" else f"{port['port']}/udp",
                        who or None,
                        owner["intercept"] or None,
                        owner["match"] or "all",
                        _since(owner["since"]),
                        kernel.get("steered"),
                        kernel.get("own"),
                        kernel.get("lease_expired"),
                        f"{lease:.1f}s" if lease is not None else None,
                        state,
                    ]
                )
    return render(columns, rows, lambda column, text: mark(text) if column == "STATE" and text != "ok" else text)


def _details(pod: dict[str, Any]) -> Iterator[str]:
    for one in pod.get("attachments", ()):
        yield f"  {one['name']} of {one['backend']} for {one['protocol']} in network namespace {pod['netns']}"
    for one in pod.get("listeners", ()):
        yield f"  listener {one['address']}: {one['queue']} of {one['limit']} wait to be accepted"
    for port in pod["ports"]:
        for one in port.get("app", ()):
            yield f"  the app at {one['address']} port {port['port']}: {one['queue']} of {one['limit']} wait"
    if pod.get("acceptQueueOverflows"):
        yield f"  accept queues have overflowed {pod['acceptQueueOverflows']} times in this pod"


def _since(iso: str | None) -> str | None:
    return age((datetime.now(UTC) - datetime.fromisoformat(iso)).total_seconds()) if iso else None
