"""`tproxy node`: ask the node daemons what they steer, for whom, and what happened to a connection."""

import importlib

import click

COMMANDS = {
    "ls": "List the nodes with a node daemon.",
    "status": "Show what is steered on nodes, by whom, and how that is.",
    "flows": "Show connections to intercepted ports of a node, and what became of them.",
    "why": "Say why a new connection to a pod's port goes where it goes.",
    "capture": "Capture the packets of a pod's network.",
    "trace": "Show what the kernel does with sockets and packets of pods, as it happens.",
}
"""The commands and what they do in a line; each is imported when it is used."""


class NodeCommands(click.Group):
    """A group whose command NAME is found in `tproxy_cli.commands.node.NAME`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, without importing anything."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command."""
        if cmd_name not in COMMANDS:
            return None
        found = getattr(importlib.import_module(f"{__name__}.{cmd_name}"), cmd_name)
        assert isinstance(found, click.Command)  # noqa: S101
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; click would suggest names only from those that are imported."""
        if args[0] not in COMMANDS and not args[0].startswith("-") and not ctx.resilient_parsing:
            raise click.NoSuchCommand(args[0], possibilities=COMMANDS, ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=NodeCommands)
def node() -> None:
    """Ask the nodes what is steered, by whom, and what happened to a connection.

    Every answer is what a node's kernel and its daemon's own records say, not what should be so. With the chart's role
    tproxy-debugger you may ask about everything; without it, about your own intercepts.
    """
