"""What a command imports decides how long a person waits for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tproxy_cli import reference

ROOT = Path(__file__).parents[3]
HEAVY = {
    "aiohttp",
    "asyncio",
    "google",
    "grpc",
    "http.client",
    "kubernetes",
    "pyroute2",
    "subprocess",
    "yaml",
}


@pytest.mark.parametrize(
    "args", [["--help"], [], ["list", "--help"], ["completion", "zsh"], ["help", "exit-codes"], ["version"], ["status"]]
)
def test_commands_that_ask_nobody_import_nothing_heavy(args: list[str]) -> None:
    code = "import sys\nfrom tproxy_cli.main import run\nrun(sys.argv[1:])\nprint(*sys.modules, file=sys.stderr)"
    got = subprocess.run(
        [sys.executable, "-c", code, *args],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert HEAVY & set(got.stderr.split()) == set()


def test_the_reference_is_current() -> None:
    """If not: `python -m tproxy_cli.reference > docs/reference/cli.md`."""
    assert (ROOT / "docs/reference/cli.md").read_text() == reference.render()
