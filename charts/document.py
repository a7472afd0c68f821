"""Write the table of values in the chart's README.md from values.yaml, where `# -- …` stands above each value.

$ python charts/document.py
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parent / "tproxy"
BEGIN, END = "<!-- values: begin -->\n", "<!-- values: end -->\n"
_LINE = re.compile(r"^( *)(?:# ?(.*)|([A-Za-z]+):.*)$")


def described(text: str) -> Iterator[tuple[str, str]]:
    """Each commented value of values.yaml: its path with dots, and its description."""
    path: list[str] = []
    words: list[str] = []
    for line in text.splitlines():
        found = _LINE.match(line)
        if found is None:
            words = []
            continue
        indent, comment, key = found.groups()
        if key is None:
            words = [comment[3:]] if comment.startswith("-- ") else [*words, comment] if words else []
            continue
        path = [*path[: len(indent) // 2], key]
        if words:
            yield ".".join(path), " ".join(words)
        words = []


def leaves(values: dict[str, Any], described_paths: set[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that has a description, or none below it that has."""
    for key, value in values.items():
        path = prefix + key
        if isinstance(value, dict) and path not in described_paths:
            yield from leaves(value, described_paths, f"{path}.")
        else:
            yield path, value


def table(text: str) -> str:
    """The table, in Markdown. Raises KeyError for a value without description."""
    words = dict(described(text))
    rows = [
        f"| `{path}` | `{json.dumps(value)}` | {words[path]} |"
        for path, value in leaves(yaml.safe_load(text), set(words))
    ]
    return "\n".join(["| Value | Default | Meaning |", "|---|---|---|", *rows]) + "\n"


def readme(page: str, text: str) -> str:
    """README.md with the table of today."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table(text)}{END}{after}"


if __name__ == "__main__":
    target = CHART / "README.md"
    target.write_text(readme(target.read_text(), (CHART / "values.yaml").read_text()))
