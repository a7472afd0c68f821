"""`tproxy node why`: the decision about a connection, step by step."""

import click

from tproxy.errors import InvalidError
from tproxy_cli.client import Json
from tproxy_cli.commands.node.asking import ask
from tproxy_cli.options import cluster_options, command, output_option
from tproxy_cli.ui.console import Console
from tproxy_cli.ui.output import render


@command()
@click.argument("pod", metavar="[NS/]POD:PORT")
@click.option(
    "--from",
    "source",
    metavar="ADDRESS",
    default="",
    allow_from_autoenv=False,
    help="The client's address: health checks come from nodes', and older connections have one.",
)
@click.option(
    "--header",
    "headers",
    metavar="NAME=VALUE",
    multiple=True,
    allow_from_autoenv=False,
    help="A header of the request, where personal intercepts decide. Repeatable.",
)
@click.option("--method", metavar="METHOD", default="", allow_from_autoenv=False, help="Of the request; else GET.")
@click.option("--path", metavar="PATH", default="", allow_from_autoenv=False, help="Of the request; else /.")
@click.option(
    "--try/--no-try",
    "try_",
    default=True,
    allow_from_autoenv=False,
    help="Whether to see if the local app accepts a connection, which ends at once.  [default: try]",
)
@cluster_options
@output_option
def why(
    console: Console,
    pod: str,
    source: str,
    headers: tuple[str, ...],
    method: str,
    path: str,
    try_: bool,
    cluster: Json,
    output: str,
) -> None:
    """Say why a new connection to a pod's port goes where it goes.

    Walks the decision as the connection would: pod, intercept, kernel, health check, match, tunnel, local app. The last
    sentence says what happens and, where something is wrong, what.

    \b
    Examples:
      tproxy node why shop/web-5d4f7c-x2x9k:8080
      tproxy node why web-5d4f7c-x2x9k:8080 -n shop --header x-user=ada --path /cart
      tproxy node why web-5d4f7c-x2x9k:53/udp
    """
    from tproxy.debug import show_why

    name, port, protocol = parse(pod)
    named = name if "/" in name else f"{cluster['namespace'] or 'default'}/{name}"
    arguments: Json = {
        "pod": named,
        "port": port,
        "protocol": protocol,
        "from": source,
        "headers": list(headers),
        "method": method,
        "path": path,
        "try": try_,
    }
    answer = ask(console, cluster, "", "why", arguments)
    last = show_why.verdict(answer)
    text = render(output, answer, lambda wide: show_why.text(answer, console.paint), lambda: [str(last.get("goes"))])
    console.out(text)
    if output in ("table", "wide") and last.get("remedy"):
        console.hint(str(last["remedy"]))


def parse(text: str) -> tuple[str, int, str]:
    """`[NS/]POD:PORT[/udp]`. Raises `InvalidError`."""
    name, colon, rest = text.rpartition(":")
    port, slash, protocol = rest.partition("/")
    right = port.isascii() and port.isdecimal() and 1 <= int(port) <= 65535 and name.count("/") <= 1
    if not colon or not right or (slash and protocol.lower() not in ("tcp", "udp")) or not all(name.split("/")):
        raise InvalidError(
            f"{text!r} is not [NAMESPACE/]POD:PORT", "such as `shop/web-5d4f7c-x2x9k:8080`, or `…:53/udp`"
        )
    return name, int(port), protocol.upper() or "TCP"
