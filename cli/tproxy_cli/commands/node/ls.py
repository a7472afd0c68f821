"""`tproxy node ls`: the node daemons."""

from tproxy_cli.client import Json
from tproxy_cli.commands.node.asking import nodes
from tproxy_cli.options import cluster_options, command, output_option
from tproxy_cli.ui.console import Console
from tproxy_cli.ui.output import render


@command()
@cluster_options
@output_option
def ls(console: Console, cluster: Json, output: str) -> None:
    """List the nodes with a node daemon: its pod, whether it is ready, its version, intercepts that it serves."""
    from tproxy.text.table import render as render_table
    from tproxy.text.units import age

    found = nodes(console, cluster)

    def table(wide: bool) -> str:
        columns = ["NODE", "POD", "READY", "RESTARTS", "VERSION", "INTERCEPTS", "AGE"]
        rows = [
            [
                one["node"],
                one["pod"],
                "yes" if one["ready"] else "no",
                one["restarts"],
                one["version"],
                one["intercepts"],
                age(one["ageSeconds"]) if one["ageSeconds"] is not None else None,
            ]
            for one in found
        ]
        return render_table(columns, rows) if rows else "no node daemons"

    console.out(render(output, {"nodes": found}, table, lambda: (f"node/{one['node']}" for one in found)))
