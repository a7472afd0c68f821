"""The command line that runs something inside the namespaces of another process. Nothing in it forks."""

import shutil
from collections.abc import Callable, Sequence

from tproxy.errors import TproxyError
from tproxy.lab.layout import PATH

Prepare = Callable[[Sequence[str]], list[str]]
"""Makes a command line one that does something first, in the namespaces but before the directory is entered."""


def enter(holder: int, command: Sequence[str], directory: str, prepare: Prepare = list) -> list[str]:
    """The command line that runs `command` in the namespaces of process `holder`."""
    return [
        tool("nsenter"),
        f"--target={holder}",
        "--net",
        "--mount",
        "--uts",
        *prepare([tool("env"), f"--chdir={directory}", *command]),
    ]


def tool(name: str) -> str:
    """Full path of a system tool: the PATH of what runs inside may lead elsewhere. Raises TproxyError."""
    if (path := shutil.which(name, path=PATH)) is None:
        raise TproxyError(f"`{name}` is not installed", "`apt-get install util-linux coreutils`")
    return path
