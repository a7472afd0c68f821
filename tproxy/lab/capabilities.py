"""A container's capabilities, if its `securityContext` asks for fewer than root has."""

from collections.abc import Mapping, Sequence
from typing import Any

from tproxy.errors import InvalidError
from tproxy.lab.enter import tool


def limited(command: Sequence[str], container: Mapping[str, Any]) -> list[str]:
    """`command`, with what the container drops taken from it and all its children for good.

    As in a runtime, what is left is the bounding set, and root's capabilities are that. Raises InvalidError for
    anything but all of them dropped and some added, which is what charts say.
    """
    wanted = (container.get("securityContext") or {}).get("capabilities") or {}
    if not wanted:
        return list(command)
    if wanted.get("drop") != ["ALL"]:
        raise InvalidError(f"container {container['name']}: the lab knows no capabilities but `drop: [ALL]` and `add`")
    kept = "".join(f",+{name.lower()}" for name in wanted.get("add") or ())
    return [tool("setpriv"), f"--bounding-set=-all{kept}", "--inh-caps=-all", "--", *command]
