"""`tproxy version`: the versions of all parts."""

from tproxy.text.table import render as render_table
from tproxy.version import VERSION
from tproxy_cli.client import MEMORY_SECONDS, Json, NotRunningError
from tproxy_cli.options import command, daemon, output_option
from tproxy_cli.ui.console import Console
from tproxy_cli.ui.output import render


@command()
@output_option
def version(console: Console, output: str) -> None:
    """Show the versions of all parts.

    The nodes' versions are known while they are connected.
    """
    result = collect(console)
    rows = [("client", result["client"]), ("daemon", result["daemon"] or "not-running")]
    rows += [(f"node/{node['node']}", node["version"]) for node in result["nodes"]]
    console.out(
        render(
            output,
            result,
            lambda wide: render_table(("NAME", "VERSION"), rows),
            lambda: (name for name, _ in rows),
        )
    )


def collect(console: Console) -> Json:
    """The versions that can be known without starting anything."""
    asked = daemon(console)
    try:
        running: str | None = asked.version()
        clusters = asked.call("/v1/status", seconds=MEMORY_SECONDS)["clusters"]
    except NotRunningError:
        running, clusters = None, []
    nodes = {
        node["node"]: {"node": node["node"], "version": node["version"], "context": cluster["context"]}
        for cluster in clusters
        for node in cluster["nodes"]
        if node.get("version")
    }
    return {"client": VERSION, "daemon": running, "nodes": list(nodes.values())}
