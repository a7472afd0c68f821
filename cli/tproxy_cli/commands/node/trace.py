"""`tproxy node trace`: what the kernel of a node does with sockets and packets of pods, as it happens."""

from typing import Any

import click

from tproxy.model.tracing import EVENTS, MAX_RATE, MAX_SECONDS, RATE, SECONDS
from tproxy_cli.client import Json
from tproxy_cli.options import cluster_options, command, daemon, number_option, port_option
from tproxy_cli.ui.console import Console


@command()
@click.argument("node")
@click.option("--pod", metavar="[NS/]POD", default="", allow_from_autoenv=False, help="Only this pod's network.")
@port_option("what has")
@click.option(
    "--events",
    metavar="NAME,…",
    default=",".join(EVENTS),
    show_default=True,
    allow_from_autoenv=False,
    help="Which events to show.",
)
@number_option("--rate", MAX_RATE, RATE, "Events to show in a second, the rest is counted.")
@number_option("--seconds", MAX_SECONDS, SECONDS, "How long, unless Ctrl-C ends it before.")
@cluster_options
@click.option(
    "-o",
    "--output",
    type=click.Choice(("table", "json")),
    default="table",
    show_default=True,
    allow_from_autoenv=False,
    help="Form of the result; json is an object to a line.",
)
def trace(
    console: Console,
    node: str,
    pod: str,
    port: int,
    events: str,
    rate: int,
    seconds: int,
    cluster: Json,
    output: str,
) -> None:
    """Show what the kernel of NODE does with sockets and packets of pods, until Ctrl-C, which shows a summary.

    state: a socket's state changes. retransmit: a packet is sent again. reset-sent, reset-received: connections that
    are broken off. drop: a packet is dropped, and the kernel's reason. overflow: an app does not accept fast enough.
    steer: what was decided about new connections to intercepted ports. LOCAL is the pod's end.

    Needs bcc on the node (the image's variant with tracing), and the role tproxy-debugger.

    \b
    Examples:
      tproxy node trace node1 --pod shop/web-5d4f7c-x2x9k --port 8080
      tproxy node trace node1 --events drop,reset-sent,overflow
    """
    from tproxy.debug import show_trace

    namespace = cluster["namespace"] or "default"
    arguments: dict[str, Any] = {
        "pod": f"{namespace}/{pod}" if pod and "/" not in pod else pod,
        "port": port,
        "events": [name.strip() for name in events.split(",") if name.strip()],
        "rate": rate,
        "seconds": seconds,
    }
    shown = show_trace.TraceText(output)
    console.progress(f"preparing to trace on node {node}")
    answer = daemon(console).ask({"cluster": cluster, "node": node, "question": "trace", "arguments": arguments})
    try:
        for one in answer:
            if not isinstance(one, dict):
                continue
            before = shown.watching
            text = list(shown.feed(one))
            if before is None and shown.watching is not None:
                console.hint(f"tracing {shown.watched} of node {node}; Ctrl-C ends it")
            elif before and not shown.watching:
                console.warn("there is no pod to trace any more", "Ctrl-C ends it; another may come")
            for line in text:
                console.out(line)
    except KeyboardInterrupt:
        pass  # which is how it is meant to end
    finally:
        for line in shown.end():
            console.out(line)
