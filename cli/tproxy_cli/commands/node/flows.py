"""`tproxy node flows`: connections to intercepted ports of a node, and what became of them."""

import json
from typing import Any

import click

from tproxy_cli.client import Json
from tproxy_cli.options import cluster_options, command, daemon, output_option
from tproxy_cli.ui.console import Console
from tproxy_cli.ui.output import render


@command()
@click.argument("node")
@click.option("--pod", metavar="[NS/]POD", default="", allow_from_autoenv=False, help="Only those of this pod.")
@click.option(
    "--intercept", metavar="[NS/]NAME", default="", allow_from_autoenv=False, help="Only those of this intercept."
)
@click.option(
    "--recent",
    metavar="N",
    type=click.IntRange(0, 4096),
    default=200,
    show_default=True,
    allow_from_autoenv=False,
    help="How many that have ended to show.",
)
@click.option("-f", "--follow", is_flag=True, allow_from_autoenv=False, help="Go on with what happens from now on.")
@cluster_options
@output_option
def flows(
    console: Console,
    node: str,
    pod: str,
    intercept: str,
    recent: int,
    follow: bool,
    cluster: Json,
    output: str,
) -> None:
    """Show connections to intercepted ports of NODE, open ones and those that ended last.

    WENT-TO and BECAUSE say what was decided and why: `laptop` by an intercept, `app` for a health check, or because the
    intercept's tunnel is gone or a limit is reached. On ports with personal intercepts each request is a line of its
    own. IN and OUT are bytes of the client and to it, as the kernel counts them. An open connection that waits for the
    laptop, the tunnel, the local app or an answer is `waiting`, and END says for what. With --follow and -o json each
    event is a line.

    \b
    Examples:
      tproxy node flows node1 --pod shop/web-5d4f7c-x2x9k
      tproxy node flows node1 --intercept shop/web --follow
    """
    from tproxy.debug import show_flows

    namespace = cluster["namespace"] or "default"
    arguments: dict[str, Any] = {
        "pod": _full(pod, namespace),
        "intercept": _full(intercept, namespace),
        "recent": recent,
        "follow": follow,
    }
    answer = daemon(console).ask({"cluster": cluster, "node": node, "question": "flows", "arguments": arguments})
    if not follow:
        lines = [one for one in answer if isinstance(one, dict)]
        console.out(render(output, lines, lambda wide: show_flows.text(lines), lambda: _names(lines)))
        return
    if output == "table":
        console.out(show_flows.line(show_flows.COLUMNS))
    for one in answer:
        if not isinstance(one, dict):
            continue
        if output != "table":
            console.out(json.dumps(one, ensure_ascii=False))
        else:
            for text in show_flows.event(one):
                (console.warn if "lost" in one else console.out)(text)


def _full(name: str, namespace: str) -> str:
    return f"{namespace}/{name}" if name and "/" not in name else name


def _names(lines: list[Json]) -> list[str]:
    return list(dict.fromkeys(f"pod/{one['flow']['pod']}" for one in lines if "flow" in one))
