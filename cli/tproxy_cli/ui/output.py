"""Results in the form that `-o` asks for."""

from collections.abc import Callable, Iterable
from typing import Any


def render(
    form: str, result: Any, table: Callable[[bool], str], names: Callable[[], Iterable[str]] = lambda: ()
) -> str:
    """`result` as text: `table(wide)` for people, the data itself as JSON or YAML, or only the `names`."""
    if form == "json":
        import json

        return json.dumps(result, indent=2, ensure_ascii=False)
    if form == "yaml":
        import yaml

        text: str = yaml.safe_dump(result, sort_keys=False, allow_unicode=True)
        return text.rstrip("\n")
    if form == "name":
        return "\n".join(names())
    return table(form == "wide")
