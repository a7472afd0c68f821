"""`tproxy node`: ask the node daemons what they steer, for whom, and what happened to a connection."""

import click

from tproxy_cli.lazy import LazyGroup

COMMANDS = {
    "ls": "List the nodes with a node daemon.",
    "status": "Show what is steered on nodes, by whom, and how that is.",
    "flows": "Show connections to intercepted ports of a node, and what became of them.",
    "why": "Say why a new connection to a pod's port goes where it goes.",
    "capture": "Capture the packets of a pod's network.",
    "trace": "Show what the kernel does with sockets and packets of pods, as it happens.",
}
"""The commands and what they do in a line; each is imported when it is used."""


@click.group(cls=LazyGroup, lazy=(__name__, COMMANDS))
def node() -> None:
    """Ask the nodes what is steered, by whom, and what happened to a connection.

    Every answer is what a node's kernel and its daemon's own records say, not what should be so. With the chart's role
    tproxy-debugger you may ask about everything; without it, about your own intercepts.
    """
