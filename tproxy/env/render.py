"""A container's environment as text for the tools that read such files. Pure.

    dotenv    python-dotenv, Node's dotenv and --env-file, IDEs: 'literal' or "with \\\\ and \\" escaped"
    docker    docker run --env-file: NAME=VALUE to the end of the line, nothing quoted, so no value of several lines
    compose   Docker Compose env_file: as dotenv, and $$ for a dollar sign
    sh        any POSIX shell: `. FILE`, or `eval "$(tproxy env ...)"`
    json      one object

A variable that a format cannot hold is refused by name, never cut off or changed.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Mapping

from tproxy.errors import InvalidError

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_COMPOSE_NAME = re.compile(r"[A-Za-z_.\[\]-][A-Za-z0-9_.\[\]-]*")
_DOTENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_BARE = re.compile(r"[A-Za-z0-9_@%+:,./-]*")
_SPECIAL_IN_SINGLE_QUOTES = re.compile(r"'|\\(?=[\\']|$)", re.DOTALL)

DOCKER_LINE_BYTES = 64 * 1024 - 1
"""What docker's reader takes as one line."""


def render(form: str, variables: Mapping[str, str]) -> bytes:
    """`variables` in one of `FORMATS`. Raises `InvalidError` naming the variable that it cannot hold."""
    return FORMATS[form](variables)


def _dotenv(variables: Mapping[str, str]) -> bytes:
    lines = []
    for name, value in variables.items():
        if not _DOTENV_NAME.fullmatch(name):
            raise _refused("dotenv", name, "its name has characters that the format does not know", "json")
        if _BARE.fullmatch(value):
            quoted = value
        elif not _SPECIAL_IN_SINGLE_QUOTES.search(value) and "\r" not in value:
            quoted = f"'{value}'"
        elif not any(character in value for character in '"\\\r$`'):
            quoted = f'"{value}"'
        else:
            escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\r", "\\r")
            quoted = f'"{escaped}"'
        lines.append(f"{name}={quoted}\n")
    return _bytes(lines)


def _docker(variables: Mapping[str, str]) -> bytes:
    lines = []
    for name, value in variables.items():
        if not name or name[0] == "#" or any(character.isspace() or _is_control(character) for character in name):
            raise _refused("docker", name, "its name has characters that the format does not know", "json")
        if "\n" in value or value.endswith("\r"):
            raise _refused("docker", name, "its value has several lines", "compose")
        line = f"{name}={value}"
        if not _is_utf8(line):
            raise _refused("docker", name, "its value is not UTF-8", "sh")
        if len(line.encode()) > DOCKER_LINE_BYTES:
            raise _refused("docker", name, "its value is longer than docker reads", "compose")
        lines.append(f"{line}\n")
    return _bytes(lines)


def _compose(variables: Mapping[str, str]) -> bytes:
    lines = []
    for name, value in variables.items():
        if not _COMPOSE_NAME.fullmatch(name) or name == "export":
            raise _refused("compose", name, "its name has characters that the format does not know", "json")
        if not _is_utf8(value):
            raise _refused("compose", name, "its value is not UTF-8", "sh")
        if _BARE.fullmatch(value):
            quoted = value
        elif "'" not in value and "\\" not in value:
            quoted = f"'{value}'"
        else:
            escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
            quoted = f'"{escaped}"'
        lines.append(f"{name}={quoted}\n")
    return _bytes(lines)


def _sh(variables: Mapping[str, str]) -> bytes:
    lines = []
    for name, value in variables.items():
        if not _IDENTIFIER.fullmatch(name):
            raise _refused("sh", name, "shells have no variables of such a name", "json")
        quoted = value if value and _BARE.fullmatch(value) else "'" + value.replace("'", "'\\''") + "'"
        lines.append(f"export {name}={quoted}\n")
    return _bytes(lines)


def _json(variables: Mapping[str, str]) -> bytes:
    return (json.dumps(dict(variables), indent=2) + "\n").encode()


FORMATS: Mapping[str, Callable[[Mapping[str, str]], bytes]] = {
    "dotenv": _dotenv,
    "docker": _docker,
    "compose": _compose,
    "sh": _sh,
    "json": _json,
}
"""How to write each format, by its name."""


def _bytes(lines: list[str]) -> bytes:
    return "".join(lines).encode("utf-8", "surrogateescape")


def _refused(form: str, name: str, why: str, other: str) -> InvalidError:
    shown = "".join(character if character.isprintable() else "?" for character in name[:128])
    return InvalidError(
        f"the format {form} cannot hold the variable {shown}: {why}",
        f"take another format, such as `{other}`, or leave it out: `--env-exclude '{shown}'`",
    )


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_control(character: str) -> bool:
    return unicodedata.category(character) == "Cc"
