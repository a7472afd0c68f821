"""`tproxy status`: the daemon, its tunnels and this laptop's intercepts."""

from collections.abc import Sequence

from tproxy.text.table import render as render_table
from tproxy.text.units import age, latency, size
from tproxy_cli.client import MEMORY_SECONDS, Json, NotRunningError
from tproxy_cli.options import command, daemon, output_option
from tproxy_cli.ui import intercepts
from tproxy_cli.ui.console import Console
from tproxy_cli.ui.output import render

_ROLES = {"connected": "good", "connecting": "doubtful", "lost": "bad"}


@command()
@output_option
def status(console: Console, output: str) -> None:
    """Show the daemon, its tunnels and its intercepts.

    Unlike `tproxy list` it asks the daemon, not the cluster, so it answers when the cluster does not.
    """
    try:
        result = daemon(console).call("/v1/status", seconds=MEMORY_SECONDS)
    except NotRunningError:
        result = {"daemon": {"state": "stopped"}, "clusters": []}
    listed = [one for cluster in result["clusters"] for one in cluster["intercepts"]]
    text = render(
        output,
        result,
        lambda wide: describe(console, result, wide),
        lambda: (f"intercept/{one['name']}" for one in listed),
    )
    if text:
        console.out(text)
    if output in ("table", "wide") and not listed and not result.get("connections"):
        console.hint(intercepts.NONE)


def describe(console: Console, result: Json, wide: bool) -> str:
    """The whole status in words and tables."""
    process = result["daemon"]
    if process["state"] == "stopped":
        return "daemon: not running; it starts when it is needed"
    lines = [
        f"daemon: {process['state']}, version {process['version']}, process {process['pid']},"
        f" up {age(process['uptimeSeconds'])}"
    ]
    if wide:
        lines += [f"  socket {process['socket']}", f"  log    {process['log']}"]
    for cluster in result["clusters"]:
        lines += ["", *_describe_cluster(console, cluster, wide)]
    for connection in result.get("connections", ()):
        lines += ["", *_describe_connection(connection)]
    if runs := result.get("runs"):
        lines += ["", *_describe_runs(runs)]
    return "\n".join(lines)


def _describe_runs(runs: Sequence[Json]) -> list[str]:
    columns = ["COMMAND", "PROCESS", "POD", "CONNECTIONS", "PUBLISHED", "AGE"]
    rows = [
        [
            run["command"].split()[0].rpartition("/")[2],
            run["pid"],
            run["origin"] or None,
            run["connections"] + run["flows"],
            ",".join(f"{one['inside']}->{one['laptop']}" for one in run["published"]) or None,
            intercepts.since(run["since"]),
        ]
        for run in runs
    ]
    return ["runs", "", render_table(columns, rows), *(run["trouble"] for run in runs if run["trouble"])]


def _describe_cluster(console: Console, cluster: Json, wide: bool) -> list[str]:
    lines = [f"context {cluster['context']}, namespace {cluster['namespace']}, at {cluster['server']}"]
    if wide:
        lines.append(f"  session {cluster['session']} of {cluster['user']}")
    if nodes := cluster["nodes"]:
        more = ["STREAMS", "ADDRESS", "VERSION"] if wide else []
        columns = ["NODE", "TUNNEL", "TRANSPORT", "RTT", "CONNECTIONS", "RECEIVED", "SENT", *more, "AGE"]
        rows = [
            [
                node["node"],
                node["state"],
                node["transport"],
                latency(node["rttSeconds"]) if node.get("rttSeconds") is not None else None,
                node["connections"],
                size(node["bytesIn"]),
                size(node["bytesOut"]),
                *([node.get("streams"), node.get("address"), node.get("version")] if wide else []),
                intercepts.since(node.get("since")),
            ]
            for node in nodes
        ]
        lines += ["", render_table(columns, rows, lambda column, text: _paint(console, column, text))]
        lines += [f"{node['node']}: {node['error']}" for node in nodes if node.get("error")]
    if listed := cluster["intercepts"]:
        lines += ["", intercepts.table(console, listed, namespaces=False, wide=wide)]
        lines += intercepts.troubles(listed)
        lines += intercepts.with_the_app(listed)
        if requests := intercepts.requests(listed):
            lines += ["", requests]
    return lines


def _describe_connection(connection: Json) -> list[str]:
    lines = [
        f"host-wide: {connection['state']} to namespace {connection['namespace']}, context {connection['context']}"
    ]
    if connection["state"] != "connected":
        return lines
    counts = {name: connection[name] for name in ("addresses", "connections", "flows")}
    lines.append("  " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    lines.append(f"  from pod {connection['origin']} on {connection['node']}" if connection["origin"] else "")
    lines += [f"  no way into the cluster: {connection['trouble']}"] if connection["trouble"] else []
    lines += [f"  {one['message']}; {one['remedy']}" for one in connection["conflicts"]]
    lines += [f"  refused {one}" for one in connection["refused"]]
    return [line for line in lines if line]


def _paint(console: Console, column: str, text: str) -> str:
    return console.paint(text, _ROLES[text]) if column == "TUNNEL" and text in _ROLES else text
