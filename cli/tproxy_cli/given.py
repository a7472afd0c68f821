"""Flags on the container's environment and files, and the environment file on disk."""

import functools
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tproxy.errors import InvalidError, TproxyError

if TYPE_CHECKING:
    from tproxy_cli.client import Json

Function = Callable[..., Any]

FORMATS = ("dotenv", "docker", "compose", "sh", "json")


AT_THEIR_PATHS = "@"
"""Of `--files` without a directory, which only a command's own view can have."""


@dataclass(frozen=True, slots=True)
class GivenToCommand:
    """What a command is to be given of the container."""

    container: str
    environment: bool
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    files: str

    def check(self) -> None:
        """Raise `InvalidError` or TproxyError for what cannot be done, before anything is."""
        if not self.environment and (self.include or self.exclude):
            raise InvalidError("`--env-include` and `--env-exclude` mean nothing without `--env`", "add `--env`")
        if self.container and not (self.environment or self.files):
            raise InvalidError(
                "`--container` says whose environment or files, but none are asked for", "add `--env` or `--files`"
            )
        if self._directory:
            from tproxy_cli.daemon.given.directory import FilesDirectory

            FilesDirectory(Path(self._directory)).check()

    def body(self, ports: Sequence[str] = ()) -> "Json | None":
        """The part of a run's request that says so; the container is the one with `ports` unless it is named."""
        if not (self.environment or self.files):
            return None
        return {
            "container": self.container,
            "ports": list(ports),
            "environment": self.environment,
            "include": list(self.include),
            "exclude": list(self.exclude),
            "files": bool(self.files),
            "directory": self._directory,
        }

    @property
    def _directory(self) -> str:
        return "" if self.files in ("", AT_THEIR_PATHS) else os.path.abspath(os.path.expanduser(self.files))


@dataclass(frozen=True, slots=True)
class GivenOptions:
    """What the person wants of the container; empty for nothing."""

    container: str
    env_file: str
    env_format: str
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    files: str
    environment: bool = False

    def to_command(self) -> tuple[GivenToCommand, "GivenOptions"]:
        """The parts for the command that gets the traffic, and the rest."""
        gets = self.environment or bool(self.files)
        rest = replace(self, files="", environment=False)
        if gets and not self.env_file:
            rest = replace(rest, container="", include=(), exclude=())
        patterns = (self.include, self.exclude) if gets and (self.environment or not self.env_file) else ((), ())
        return GivenToCommand(self.container if gets else "", self.environment, *patterns, self.files), rest

    def check(self) -> None:
        """Raise `InvalidError` or TproxyError for what cannot be done, before anything is."""
        if self.environment or self.files == AT_THEIR_PATHS:
            flag = "`--env`" if self.environment else "`--files` without a directory"
            raise InvalidError(
                f"{flag} is for a command, and none is given",
                "write the command after `--`, or take `--env-file FILE` and `--files DIR`",
            )
        if not self.env_file and (self.include or self.exclude):
            raise InvalidError("`--env-include` and `--env-exclude` mean nothing without `--env-file`")
        if self.env_file:
            target = os.path.realpath(self.env_file)
            if os.path.isdir(target):
                raise InvalidError(f"{self.env_file} is a directory", "`--env-file` takes a file")
            if not os.access(os.path.dirname(target), os.W_OK | os.X_OK):
                raise InvalidError(f"cannot write {self.env_file}", f"`ls -ld {os.path.dirname(target)}`")

    def body(self) -> "Json":
        """The part of a request that says so; empty if nothing is wanted."""
        body: Json = {}
        if self.container:
            body["container"] = self.container
        if self.env_file:
            body["environment"] = {
                "format": self.env_format,
                "include": list(self.include),
                "exclude": list(self.exclude),
            }
        if self.files:
            body["files"] = os.path.abspath(os.path.expanduser(self.files))
        return body

    def take(self, result: "Json") -> None:
        """Write the environment that is in `result`, and leave there only where it is."""
        if (text := result.pop("environment", None)) is not None:
            write_private(self.env_file, text.encode("utf-8", "surrogateescape"))
            result["envFile"] = os.path.abspath(self.env_file)


def write_private(path: str, content: bytes) -> None:
    """Write a file for this user alone, as a whole or not at all; a symbolic link is followed. Raises TproxyError."""
    import tempfile

    target = os.path.realpath(path)
    temporary = ""
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=".tproxy-", dir=os.path.dirname(target))  # mode 0600
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.replace(temporary, target)
    except OSError as error:
        if temporary:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
        raise TproxyError(f"cannot write {path}: {error.strerror}", f"`ls -ld {os.path.dirname(target)}`") from error


def container_option(function: Function) -> Function:
    """`-c`, whose environment and files."""
    return click.option(
        "-c",
        "--container",
        metavar="NAME",
        default="",
        allow_from_autoenv=False,
        help="Container whose environment and files are meant; else the one with the port, else the default one.",
    )(function)


def format_option(function: Function) -> Function:
    """How the environment is written."""
    return click.option(
        "--env-format",
        type=click.Choice(FORMATS),
        default="dotenv",
        show_default=True,
        help="Form of the environment.",
    )(function)


def selection_options(function: Function) -> Function:
    """Which variables."""
    decorated = click.option(
        "--env-exclude", multiple=True, metavar="PATTERN", help="Leave out variables with such names, `*_PASSWORD`."
    )(function)
    return click.option(
        "--env-include",
        multiple=True,
        metavar="PATTERN",
        help="Keep variables that only say where things are in the container, such as PATH and HOME.",
    )(decorated)


def given_options(function: Function) -> Function:
    """All of them, as one argument `given`."""

    @functools.wraps(function)
    def call(
        *args: Any,
        container: str,
        env_file: str,
        env_format: str,
        env_include: tuple[str, ...],
        env_exclude: tuple[str, ...],
        files: str,
        env: bool,
        **params: Any,
    ) -> Any:
        given = GivenOptions(container, env_file, env_format, env_include, env_exclude, files, env)
        return function(*args, given=given, **params)

    decorated = _files_option(call)
    decorated = selection_options(decorated)
    decorated = format_option(decorated)
    decorated = click.option(
        "--env-file",
        metavar="FILE",
        default="",
        allow_from_autoenv=False,
        help="Write the container's environment to FILE, for you alone.",
    )(decorated)
    return container_option(_env_option(decorated))


def command_options(function: Function) -> Function:
    """Those of a command that is run, as one argument `given`."""

    @functools.wraps(function)
    def call(
        *args: Any,
        container: str,
        env: bool,
        env_include: tuple[str, ...],
        env_exclude: tuple[str, ...],
        files: str,
        **params: Any,
    ) -> Any:
        given = GivenToCommand(container, env, env_include, env_exclude, files)
        return function(*args, given=given, **params)

    decorated = _files_option(call)
    return container_option(_env_option(selection_options(decorated)))


def _env_option(function: Function) -> Function:
    return click.option(
        "--env",
        is_flag=True,
        allow_from_autoenv=False,
        help="Give CMD the variables of the container that are not set on the laptop.",
    )(function)


def _files_option(function: Function) -> Function:
    return click.option(
        "--files",
        metavar="[DIR]",
        is_flag=False,
        flag_value=AT_THEIR_PATHS,
        default="",
        allow_from_autoenv=False,
        help="Have the container's ConfigMaps, Secrets and tokens, kept current: CMD at the paths that they have in the"
        " container, the laptop below DIR.",
    )(function)
