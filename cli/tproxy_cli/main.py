"""The `tproxy` command: its subcommands, found by name and imported only when they are used."""

import click

COMMANDS = {
    "completion": "Print the shell completion script.",
    "config": "Show the configuration and where it comes from.",
    "doctor": "Check the laptop, the cluster and tproxy in it.",
    "help": "Explain a command or a topic.",
    "intercept": "Bring a workload's traffic to your laptop.",
    "lab": "Run a small cluster on this machine.",
    "leave": "Give intercepted traffic back.",
    "list": "List the intercepts in the cluster.",
    "quit": "Leave everything and stop the daemon.",
    "status": "Show the daemon, its tunnels and its intercepts.",
    "version": "Show the versions of all parts.",
}


class Commands(click.Group):
    """A group whose subcommand NAME is the object of the same name in `tproxy_cli.commands.NAME`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, without importing anything."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command."""
        if cmd_name not in COMMANDS:
            return None
        import importlib

        module = importlib.import_module(f"tproxy_cli.commands.{cmd_name}")
        name = f"{cmd_name}_command" if cmd_name in ("list", "quit", "help") else cmd_name
        command = getattr(module, name)
        assert isinstance(command, click.Command)  # noqa: S101
        return command


@click.group(cls=Commands, context_settings={"auto_envvar_prefix": "TPROXY", "help_option_names": ["-h", "--help"]})
def tproxy() -> None:
    """Run one service of a Kubernetes cluster on your laptop, with the cluster's traffic."""


def main() -> None:
    """Entry point of `tproxy`."""
    tproxy()


def kubectl_main() -> None:
    """Entry point of `kubectl tproxy`."""
    tproxy(prog_name="kubectl tproxy")
