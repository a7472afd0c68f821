"""The one way to the terminal: results to stdout, everything else to stderr, never mixed up.

With `--progress json` everything on stderr is a JSON object per line: progress, warnings, hints and errors.
"""

import os
import sys
from contextlib import suppress
from typing import Protocol, TextIO

import click

from tproxy.errors import TproxyError
from tproxy.text.printable import printable
from tproxy_cli.paths import log_path
from tproxy_cli.ui.errors import causes

_ROLES = {"good": "green", "doubtful": "yellow", "bad": "red", "command": "cyan"}


class Progress(Protocol):
    """A place for news about something that is under way."""

    def say(self, text: str) -> None:
        """Show what is being done now."""
        ...

    def event(self, event: dict[str, object]) -> bool:
        """Show `event` for programs, if this is for programs; whether it is."""
        ...

    def clear(self) -> None:
        """Leave the place to other output; the next `say` takes it again."""
        ...


class Silent:
    """Shows nothing."""

    def say(self, text: str) -> None:
        """Do nothing."""

    def event(self, event: dict[str, object]) -> bool:
        """Do nothing."""
        return False

    def clear(self) -> None:
        """Do nothing."""


class Console:
    """Where a command speaks. `progress` is auto, plain, json or off; `color` is auto, always or never."""

    def __init__(self) -> None:
        self.progress_mode = "auto"
        self.color = "auto"
        self.verbose = False
        self._progress: Progress | None = None

    def out(self, text: str) -> None:
        """Write a result to stdout. Raises BrokenPipeError if nobody reads it any more."""
        self.clear()
        try:
            click.echo(text, color=True)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise TproxyError(f"cannot write the result: {error.strerror}", "see where stdout leads") from error

    def progress(self, text: str) -> None:
        """Say what is being done now."""
        self._sink().say(printable(text))

    def warn(self, message: str, hint: str = "") -> None:
        """Say what looks wrong although the command goes on."""
        if not self._event({"warning": message, "hint": hint}):
            lines = [f"{self._bold('warning:', 'doubtful', sys.stderr)} {printable(message)}"]
            if hint:
                lines.append(f"{self._bold('hint:', 'command', sys.stderr)} {printable(hint)}")
            self._err("\n".join(lines))

    def hint(self, text: str) -> None:
        """Say what the next step may be."""
        if not self._event({"hint": text}):
            self._err(printable(text))

    def fail(self, error: TproxyError) -> None:
        """Say what failed, why, and the next command to run; with `-v` also what it came from."""
        chain = causes(error) if self.verbose else []
        event: dict[str, object] = {"message": error.message, "hint": error.hint, "exitCode": error.exit_code}
        if self._event({"error": event | ({"causes": chain} if chain else {})}):
            return
        lines = [f"{self._bold('error:', 'bad', sys.stderr)} {printable(error.message)}"]
        lines += [f"  caused by {printable(cause)}" for cause in chain]
        if self.verbose:
            with suppress(TproxyError):  # without a home there is no log, and another error would hide this one
                lines.append(f"  the daemon's log is {log_path()}")
        if error.hint:
            lines += ["", f"{self._bold('hint:', 'command', sys.stderr)} {printable(error.hint)}"]
        self._err("\n".join(lines))

    def paint(self, text: str, role: str) -> str:
        """Colour for a part of a result: good, doubtful or bad; the bare text where colour is not wanted."""
        return click.style(text, fg=_ROLES[role]) if self._colored(sys.stdout) else text

    def clear(self) -> None:
        """End the spinner, if one turns."""
        if self._progress is not None:
            self._progress.clear()

    def _bold(self, text: str, role: str, stream: TextIO) -> str:
        return click.style(text, fg=_ROLES[role], bold=True) if self._colored(stream) else text

    def _err(self, text: str) -> None:
        self.clear()
        click.echo(text, err=True, color=True)

    def _event(self, event: dict[str, object]) -> bool:
        return self._sink().event(event)

    def _colored(self, stream: TextIO) -> bool:
        if self.color != "auto":
            return self.color == "always"
        return not os.environ.get("NO_COLOR") and _is_terminal(stream)

    def _sink(self) -> Progress:
        if self._progress is None:
            self._progress = _make_progress(self.progress_mode)
        return self._progress


def _make_progress(mode: str) -> Progress:
    stream = sys.stderr
    if mode == "off" or stream is None:
        return Silent()
    from tproxy_cli.ui.progress import JsonLines, PlainLines, Spinner

    if mode == "json":
        return JsonLines(stream)
    return Spinner(stream) if mode == "auto" and _is_terminal(stream) else PlainLines(stream)


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty() and os.environ.get("TERM") not in ("dumb", "", None)
