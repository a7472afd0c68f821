"""Text of others made fit for a terminal."""

import re

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """`text` without control characters, line breaks and tabs aside: names and messages in the cluster are written by
    anybody who may create objects there, and an escape sequence can rewrite what the terminal shows."""
    return _CONTROL.sub("?", text)
