"""`tproxy node status`: what is steered on nodes, by whom, and how that is."""

import click

from tproxy.errors import TproxyError
from tproxy_cli.client import Json
from tproxy_cli.commands.node.asking import ask, nodes
from tproxy_cli.options import cluster_options, command, output_option
from tproxy_cli.ui.console import Console
from tproxy_cli.ui.output import render


@command()
@click.argument("node", default="")
@cluster_options
@output_option
def status(console: Console, node: str, cluster: Json, output: str) -> None:
    """Show what is steered on NODE, or on every node, by whom, and what differs from what is asked for.

    What is steered, the lease and the counts are what the kernel says at this moment. STEERED are new connections that
    the intercept got, OWN the relay's own ones to the app, LATE those that the app got because the daemon was late.
    """
    from tproxy.debug import show_status

    names = [node] if node else [str(one["node"]) for one in nodes(console, cluster)]
    answers: dict[str, list[Json]] = {}
    for name in names:
        try:
            answers[name] = ask(console, cluster, name, "status")
        except TproxyError as error:
            if node:
                raise
            console.warn(f"node {name}: {error.message}", error.hint)

    def table(wide: bool) -> str:
        def mark(text: str) -> str:
            return console.paint(text, "bad")

        return "\n\n".join(show_status.text(answer, wide, mark) for answer in answers.values())

    result = answers[node] if node else answers
    pods = [f"pod/{one['pod']['pod']}" for answer in answers.values() for one in answer if "pod" in one]
    console.out(render(output, result, table, lambda: pods))
    if not answers:
        raise click.exceptions.Exit(1)
