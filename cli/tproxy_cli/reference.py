"""docs/reference/cli.md, written from the commands themselves:

python -m tproxy_cli.reference > docs/reference/cli.md
"""

import inspect
from collections.abc import Iterator

import click

from tproxy_cli.commands.help import TOPICS
from tproxy_cli.main import tproxy
from tproxy_cli.options import SPEECH

HEAD = """\
# Command line

Written from the code by `python -m tproxy_cli.reference`; change it there.

Results go to stdout; progress, warnings, hints and errors go to stderr. Every command has `-h`/`--help`. As a kubectl
plugin, `kubectl tproxy` is the same.
"""


def pages() -> Iterator[tuple[str, click.Command]]:
    """Every command with the words that call it, groups before their commands."""

    def below(name: str, command: click.Command, ctx: click.Context) -> Iterator[tuple[str, click.Command]]:
        yield name, command
        if isinstance(command, click.Group):
            for word in command.list_commands(ctx):
                found = command.get_command(ctx, word)
                if found is not None and not found.hidden:
                    yield from below(f"{name} {word}", found, ctx)

    with click.Context(tproxy) as ctx:
        yield from below("tproxy", tproxy, ctx)


def render() -> str:
    """The whole page."""
    parts = [HEAD]
    for name, command in pages():
        parts.append(f"{'#' * min(4, name.count(' ') + 2)} `{name}`\n")
        parts += _body(name, command)
    parts.append("## Topics\n")
    for topic, (what, text) in TOPICS.items():
        parts.append(f"### {topic}\n\n{what}\n\n```text\n{inspect.cleandoc(text)}\n```\n")
    return "\n".join(parts)


def _body(name: str, command: click.Command) -> Iterator[str]:
    with click.Context(command, info_name=name) as ctx:
        if not isinstance(command, click.Group):
            usage = " ".join([name, *command.collect_usage_pieces(ctx)])
            yield f"```console\n$ {usage}\n```\n"
        yield _prose(command.help or "")
        options = [
            param
            for param in command.params
            if isinstance(param, click.Option) and not param.hidden and (param.name not in SPEECH or name == "tproxy")
        ]
        if options:
            rows = ["| Flag | Meaning |", "|---|---|"]
            for option in options:
                record = option.get_help_record(ctx)
                assert record is not None  # noqa: S101 -- only hidden options have none
                flag, meaning = (text.replace("|", "\\|").replace("  [", " [") for text in record)
                rows.append(f"| `{flag}` | {meaning} |")
            yield "\n".join(rows) + "\n"


def _prose(text: str) -> str:
    """A command's help: its paragraphs, with those that are not to be wrapped (click marks them) as blocks."""
    parts = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if paragraph.startswith("\b"):
            parts.append(f"```text\n{inspect.cleandoc(paragraph.removeprefix(chr(8)))}\n```")
        else:
            parts.append(paragraph)
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    print(render(), end="")
