"""`tproxy list`: intercepts in the cluster, of everybody."""

import click

from tproxy_cli.client import Json
from tproxy_cli.options import cluster_options, command, daemon, output_option
from tproxy_cli.ui import intercepts
from tproxy_cli.ui.console import Console
from tproxy_cli.ui.output import render


@command(name="list")
@click.option("-A", "--all-namespaces", is_flag=True, help="Intercepts of all namespaces.")
@cluster_options
@output_option
def list_command(console: Console, all_namespaces: bool, cluster: Json, output: str) -> None:
    """List the intercepts in the cluster, everybody's.

    PORTS are the pods' ports; `80->3000` is intercepted by this laptop and arrives at its port 3000.
    """
    body = {"cluster": cluster, "allNamespaces": all_namespaces}
    result = daemon(console).call("/v1/list", body, start=True)
    listed = result["intercepts"]
    text = render(
        output,
        result,
        lambda wide: intercepts.table(console, listed, namespaces=all_namespaces, wide=wide) if listed else "",
        lambda: (f"intercept/{one['name']}" for one in listed),
    )
    if text:
        console.out(text)
    if output in ("table", "wide"):
        if not listed:
            console.hint(intercepts.NONE)
        for remark in (*intercepts.troubles(listed), *intercepts.with_the_app(listed)):
            console.hint(remark)
