"""The `tproxy` command: its subcommands, found by name and imported only when they are used."""

import os
import sys
from typing import Any, NoReturn

import click

from tproxy.errors import TproxyError
from tproxy.version import VERSION
from tproxy_cli.lazy import LazyGroup
from tproxy_cli.options import root_options
from tproxy_cli.ui.console import Console
from tproxy_cli.ui.errors import explain

COMMANDS = {
    "completion": "Print the completion script for a shell.",
    "config": "Show the configuration and where it comes from.",
    "connect": "Reach the cluster from every program on this laptop.",
    "disconnect": "Undo `tproxy connect`.",
    "doctor": "Check the laptop, the cluster and tproxy in it.",
    "env": "Show the environment of a workload's container.",
    "gather-logs": "Write logs and findings into one archive, without secrets.",
    "help": "Explain a command or a topic.",
    "intercept": "Bring a workload's traffic to your laptop.",
    "lab": "Run a small cluster on this machine.",
    "leave": "Give intercepted traffic back.",
    "list": "List the intercepts in the cluster, everybody's.",
    "node": "Ask the nodes what is steered, by whom, and what happened to a connection.",
    "quit": "Leave everything and stop the daemon.",
    "run": "Run a command as if it ran in the cluster.",
    "status": "Show the daemon, its tunnels and its intercepts.",
    "version": "Show the versions of all parts.",
}
"""The commands and what they do in a line, so that help and completion need not import them."""

COMPLETION_VARIABLE = "_TPROXY_COMPLETE"
"""Set by the shells' completion scripts."""

BROKEN_PIPE = 141
"""Exit status if the reader of our output went away: what a shell shows for SIGPIPE."""


class Commands(LazyGroup):
    """All commands."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Parse the flags before the command's name; the configuration file counts here, too."""
        from tproxy_cli import config

        try:
            extra.setdefault("default_map", config.load())
        except TproxyError:
            extra.setdefault("default_map", {})  # the command will say so; `--help` is to work
        return super().make_context(info_name, args, parent, **extra)


@click.group(
    cls=Commands,
    lazy=("tproxy_cli.commands", COMMANDS),
    invoke_without_command=True,
    context_settings={
        "auto_envvar_prefix": "TPROXY",
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
    },
)
@root_options
@click.version_option(VERSION, message="tproxy %(version)s", help="Show the version of this command.")
@click.pass_context
def tproxy(ctx: click.Context) -> None:
    """Run one service of a Kubernetes cluster on your laptop, with the cluster's traffic."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def run(args: list[str], prog_name: str = "tproxy") -> int:
    """Run one command and return its exit status. Whatever goes wrong is told on stderr, never as a traceback."""
    console = Console()
    try:
        if instruction := os.environ.get(COMPLETION_VARIABLE):
            from click.shell_completion import shell_complete

            return shell_complete(tproxy, {}, prog_name, COMPLETION_VARIABLE, instruction)
        # Not tproxy.main(), which has its own ideas of Ctrl-C and closed pipes.
        with tproxy.make_context(prog_name, args, obj=console) as ctx:
            tproxy.invoke(ctx)
        sys.stdout.flush()
        return 0
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        console.out(error.ctx.get_help())
        return 0
    except BrokenPipeError:
        return BROKEN_PIPE
    except (Exception, KeyboardInterrupt) as error:
        told = explain(error)
        console.fail(told)
        return told.exit_code
    finally:
        console.clear()


def _exit(status: int) -> NoReturn:
    """End the process. What stdout could not take is dropped, or the interpreter's last flush would complain."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(status)


def _open_streams() -> None:
    """Put /dev/null where the shell has closed a standard stream (`>&-`): otherwise Python has None there, and the next
    file or socket that is opened takes its number.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (it stays open)


def main() -> None:
    """Entry point of `tproxy`."""
    _open_streams()
    _exit(run(sys.argv[1:]))


def kubectl_main() -> None:
    """Entry point of `kubectl tproxy`."""
    _open_streams()
    _exit(run(sys.argv[1:], "kubectl tproxy"))


def kubectl_complete_main() -> None:
    """Entry point of kubectl's completion of `kubectl tproxy`."""
    from tproxy_cli.commands.completion import kubectl_answer

    print(kubectl_answer(tproxy, sys.argv[1:]))
