"""A group of commands that imports a command when it is used, and answers help and completion from a table."""

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class LazyGroup(click.Group):
    """A group whose command NAME is found in the module `PACKAGE.NAME`.

    `lazy` is that package, and what each of its commands does in a line. In Python `-` is `_`, and a command whose
    name is a builtin's, or its module's, ends in `_command`.
    """

    def __init__(self, *arguments: Any, lazy: tuple[str, Mapping[str, str]], **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._package, self._table = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, without importing anything."""
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command."""
        if cmd_name not in self._table:
            return None
        name = cmd_name.replace("-", "_")
        module = importlib.import_module(f"{self._package}.{name}")
        found = getattr(module, f"{name}_command", None) or getattr(module, name)
        assert isinstance(found, click.Command)  # noqa: S101
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; click would suggest names only from those that are imported."""
        if args[0] not in self._table and not args[0].startswith("-") and not ctx.resilient_parsing:
            raise click.NoSuchCommand(args[0], possibilities=self._table, ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self._table.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem]":
        """Complete the commands' names from the table."""
        from click.shell_completion import CompletionItem

        if incomplete.startswith("-"):
            return click.Command.shell_complete(self, ctx, incomplete)
        return [CompletionItem(name, help=what) for name, what in self._table.items() if name.startswith(incomplete)]
