"""The answer to `why` for people."""

from collections.abc import Callable, Sequence

from tproxy.debug.answer import Json
from tproxy.text.printable import printable

Paint = Callable[[str, str], str]
"""Colours a text by `good`, `doubtful` or `bad`."""

_ROLES = {"ok": "good", "note": "doubtful", "no": "bad"}


def verdict(answer: Sequence[Json]) -> Json:
    """The last word; empty if there is none."""
    return next((dict(one["verdict"]) for one in answer if "verdict" in one), {})


def text(answer: Sequence[Json], paint: Paint = lambda text, role: text) -> str:
    """The steps, and the sentence that they come to."""
    steps = [one["step"] for one in answer if "step" in one]
    width = max((len(step["name"]) for step in steps), default=0)
    lines = []
    for step in steps:
        mark = paint(step["outcome"].ljust(4), _ROLES.get(step["outcome"], "doubtful"))
        lines.append(f"  {mark}  {step['name'].ljust(width)}  {printable(step['text'])}")
    last = verdict(answer)
    sentence = printable(str(last.get("text", "")))
    return "\n".join([*lines, "", sentence[:1].upper() + sentence[1:]])
