"""Tracepoints as the kernel describes them: files of tracefs.

field:const void * skaddr;	offset:8;	size:8;	signed:0;
"""

import re
from collections.abc import Mapping
from pathlib import Path

from tproxy.errors import TproxyError

TRACEFS = Path("/sys/kernel/tracing")

_FIELD = re.compile(r"^\s*field:[^;]*?(\w+)(?:\[\w*\])?;\s*offset:(\d+);", re.MULTILINE)


def fields(description: str) -> Mapping[str, int]:
    """Where the fields of an event are, from its `format` file."""
    return {name: int(offset) for name, offset in _FIELD.findall(description)}


def look_up(tracepoint: str, root: Path = TRACEFS) -> Mapping[str, int]:
    """Where the fields of `group:name` are. Raises TproxyError if this kernel does not have it."""
    group, _, name = tracepoint.partition(":")
    try:
        return fields((root / "events" / group / name / "format").read_text())
    except OSError as error:
        raise TproxyError(
            f"this kernel has no tracepoint {tracepoint}, or does not show it: {error.strerror}",
            f"look into {root / 'events'}; the kernel needs CONFIG_FTRACE, and no lockdown",
        ) from error
