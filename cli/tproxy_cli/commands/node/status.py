"""`tproxy node status`: what is steered on a node, and how its tunnels are."""

import click

from tproxy_cli.client import Json
from tproxy_cli.options import cluster_options, command, daemon, output_option
from tproxy_cli.ui.console import Console
from tproxy_cli.ui.output import render


@command()
@click.argument("node")
@cluster_options
@output_option
def status(console: Console, node: str, cluster: Json, output: str) -> None:
    """Show what is steered on NODE, and how its tunnels are."""
    body = {"cluster": cluster, "node": node, "question": "status", "arguments": {}}
    answer = list(daemon(console).ask(body))
    console.out(render(output, answer, lambda wide: "\n".join(map(str, answer))))
