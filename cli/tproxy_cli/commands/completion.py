"""`tproxy completion`: the scripts that make a shell complete our commands, and what answers kubectl's question."""

import click

from tproxy_cli.options import command
from tproxy_cli.ui.console import Console

NO_FILE_NAMES = ":4"
"""Cobra's directive to its shell scripts: offer these candidates and no file names besides."""


@command()
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
def completion(console: Console, shell: str) -> None:
    """Print the completion script for a shell.

    \b
    To have it in every shell:
      eval "$(tproxy completion bash)"       # in ~/.bashrc; bash 4.4 or later
      eval "$(tproxy completion zsh)"        # in ~/.zshrc, after compinit
      tproxy completion fish | source        # in ~/.config/fish/config.fish
    """
    from click.shell_completion import get_completion_class

    from tproxy_cli.main import COMPLETION_VARIABLE

    made = get_completion_class(shell)
    assert made is not None  # noqa: S101 -- the type of `shell` lists what there is
    root = click.get_current_context().find_root().command
    console.out(made(root, {}, "tproxy", COMPLETION_VARIABLE).source().rstrip("\n"))


def kubectl_answer(root: click.Command, words: list[str]) -> str:
    """Candidates for the last of `words` as kubectl expects them of plugins: one a line, description after a tab."""
    from click.shell_completion import ShellComplete

    *before, incomplete = words or [""]
    items = ShellComplete(root, {}, "kubectl tproxy", "").get_completions(before, incomplete)
    lines = [f"{item.value}\t{item.help}" if item.help else str(item.value) for item in items if item.type == "plain"]
    return "\n".join([*lines, NO_FILE_NAMES])
