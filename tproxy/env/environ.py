"""The environment of a process as the kernel shows it, and which of it means anything elsewhere."""

import fnmatch
from collections.abc import Iterable, Mapping

FILES_VARIABLE = "TPROXY_FILES"
"""What tells a program where the container's files are, all of them."""

CONTAINERS_OWN = (
    "_",
    "GOPATH",
    "GOROOT",
    "HOME",
    "HOSTNAME",
    "JAVA_HOME",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "LOGNAME",
    "NODE_PATH",
    "OLDPWD",
    "PATH",
    "PWD",
    "PYTHONHOME",
    "PYTHONPATH",
    "SHELL",
    "SHLVL",
    "TERM",
    "TMPDIR",
    "USER",
)
"""Variables that say where things are in the container's image: on a laptop they would break the tools."""


def parse(block: bytes) -> dict[str, str]:
    """The variables of `/proc/PID/environ`. Bytes that are no UTF-8 come through as surrogates (PEP 383).

    Processes may have written anything there: what is no variable is dropped, and of several with one name the first
    counts, as it does for getenv(3).
    """
    variables: dict[str, str] = {}
    for entry in block.split(b"\0"):
        name, equals, value = entry.decode("utf-8", "surrogateescape").partition("=")
        if name and equals:
            variables.setdefault(name, value)
    return variables


def select(variables: Mapping[str, str], include: Iterable[str] = (), exclude: Iterable[str] = ()) -> dict[str, str]:
    """`variables` without `CONTAINERS_OWN` and those that match a shell pattern of `exclude`, by name.

    What a pattern of `include` matches stays, unless it is excluded too.
    """
    wanted, unwanted = tuple(include), tuple(exclude)

    def stays(name: str) -> bool:
        if _matches(name, unwanted):
            return False
        return name not in CONTAINERS_OWN or _matches(name, wanted)

    return {name: variables[name] for name in sorted(variables) if stays(name)}


def combine(
    own: Mapping[str, str], given: Mapping[str, str], include: Iterable[str] = ()
) -> tuple[dict[str, str], list[str]]:
    """The environment of a command that has `own` variables and is given a container's: its own win, save those that
    match a shell pattern of `include`. Also the names of the container's that were not taken for that reason."""
    wanted = tuple(include)
    taken = {name: value for name, value in given.items() if name not in own or _matches(name, wanted)}
    lost = sorted(name for name, value in given.items() if name not in taken and own[name] != value)
    return {**own, **taken}, lost


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
