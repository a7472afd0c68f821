"""docs/reference/steering.md says what holds with which backend and address family, and by which test."""

import ast
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CELLS = [(backend, family) for backend in ("sk_lookup", "tproxy") for family in ("IPv4", "IPv6")]
ADDRESSES = {"IPv4": "10.77.0.2", "IPv6": "fd77::2"}
BOTH_FAMILIES = ("POD_IP6", "family", "urls")
"""How a test that is not run once for each family says in its own text that it deals with both."""


def rows() -> dict[str, list[str]]:
    """The cells of each test."""
    text = (ROOT / "docs/reference/steering.md").read_text()
    table = text.partition("## What holds with which backend")[2].partition("\n## ")[0]
    found = {}
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 6 and cells[5].startswith("`"):
            found["tests/" + cells[5].strip("`")] = cells[1:5]
    return found


@pytest.fixture(scope="module")
def collected() -> dict[str, list[str]]:
    """The variants of each test in the files that the table names."""
    files = sorted({test.partition("::")[0] for test in rows()})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    ids = sorted(line for line in lines if "::" in line)
    return {test: list(each) for test, each in groupby(ids, lambda one: one.partition("[")[0])}


def source(test: str) -> str:
    """A test's text, and its decorators."""
    file, _, name = test.partition("::")
    tree = ast.parse((ROOT / file).read_text())
    found = [one for one in tree.body if isinstance(one, ast.FunctionDef) and one.name == name]
    return ast.unparse(found[0])


def test_the_table_is_there() -> None:
    assert len(rows()) > 30


@pytest.mark.parametrize("test", rows())
def test_each_cell_that_says_yes_is_run(test: str, collected: dict[str, list[str]]) -> None:
    ids = collected[test]
    for (backend, family), cell in zip(CELLS, rows()[test], strict=True):
        variants = [one for one in ids if backend in one]
        if cell != "yes":
            assert cell in ("**no**", "not run")
            continue
        assert variants, f"{test} is not run with {backend}"
        by_family = any(mark in one for one in ids for mark in (*ADDRESSES, *ADDRESSES.values()))
        if by_family:
            assert any(family in one or ADDRESSES[family] in one for one in variants), f"not with {backend}, {family}"
        elif family == "IPv6":
            assert any(word in source(test) for word in BOTH_FAMILIES), f"{test} says nothing of IPv6"
