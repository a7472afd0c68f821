"""`tproxy help`: the topics that belong to no single command, and any command's own help."""

from collections.abc import Iterable

import click

from tproxy.errors import InvalidError
from tproxy_cli.config import DEFAULTS
from tproxy_cli.options import command
from tproxy_cli.ui.console import Console


def _columns(pairs: Iterable[tuple[str, str]]) -> str:
    listed = list(pairs)
    width = max(len(left) for left, _ in listed)
    return "\n".join(f"  {left.ljust(width)}   {right}" for left, right in listed)


EXIT_CODES = _columns(
    (
        ("0", "success"),
        ("1", "failure"),
        ("2", "wrong usage; nothing was done"),
        ("3", "the cluster, or tproxy in it, is missing, unreachable or incompatible"),
        ("4", "not authenticated, or a right is missing"),
        ("5", "conflict: somebody else already intercepts this"),
        ("130", "interrupted by Ctrl-C"),
    )
)

ENVIRONMENT = _columns(
    (
        *((f"TPROXY_{key.upper().replace('-', '_')}", f"default of --{key}") for key in DEFAULTS),
        ("TPROXY_CONFIG", "the configuration file"),
        ("KUBECONFIG", "kubeconfig files, as for kubectl"),
        ("XDG_CONFIG_HOME", "has tproxy/config.yaml; else ~/.config"),
        ("XDG_RUNTIME_DIR", "has tproxy/ with the daemon's socket; else /tmp/tproxy-UID"),
        ("XDG_STATE_HOME", "has tproxy/ with logs and sessions; else ~/.local/state"),
        ("NO_COLOR", "if set, no colour, unless --color says otherwise"),
    )
)

SETTINGS = "\n".join(f"  {key}" for key in DEFAULTS)

CONFIGURATION = f"""\
The configuration file holds defaults of flags, in YAML, under the flags' names:

  namespace: shop
  on-disconnect: fail

A flag goes before its environment variable, that before the file, and the file before the built-in default.
`tproxy config view` shows where the file is and what holds. Settings are:

{SETTINGS}"""

TOPICS = {
    "configuration": ("Defaults of flags in a file.", CONFIGURATION),
    "environment": ("Environment variables.", ENVIRONMENT),
    "exit-codes": ("What the exit status says.", EXIT_CODES),
}


def _names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    root = ctx.find_root().command
    commands = root.list_commands(ctx) if isinstance(root, click.Group) else []
    return [name for name in (*commands, *TOPICS) if name.startswith(incomplete)]


@command(name="help")
@click.argument("topic", required=False, shell_complete=_names)
def help_command(console: Console, topic: str | None) -> None:
    """Explain a command or a topic.

    Topics are configuration, environment and exit-codes.
    """
    root = click.get_current_context().find_root()
    assert isinstance(root.command, click.Group)  # noqa: S101
    if topic is None:
        lines = _columns((f"tproxy help {name}", what) for name, (what, _) in TOPICS.items())
        console.out(f"{root.get_help()}\n\nTopics:\n{lines}")
    elif topic in TOPICS:
        console.out(TOPICS[topic][1])
    elif (found := root.command.get_command(root, topic)) is not None:
        with click.Context(found, root, topic) as ctx:
            console.out(found.get_help(ctx))
    else:
        from tproxy.model.workload import nearest

        close = nearest(topic, [*root.command.list_commands(root), *TOPICS])
        hint = " or ".join(f"`tproxy help {name}`" for name in close) or "`tproxy help` lists topics and commands"
        raise InvalidError(f"there is no command or topic {topic!r}", f"did you mean {hint}?" if close else hint)
