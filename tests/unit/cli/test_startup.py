"""What a command imports decides how long a person waits for it."""

import configparser
import importlib
import os
import signal
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


LOADING = """
import importlib.abc, sys, time
class Slow(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "tproxy_cli.main":
            print("loading", flush=True)
            time.sleep(60)
sys.meta_path.insert(0, Slow())
from tproxy_cli.entry import tproxy
tproxy()
"""


def test_ctrl_c_while_a_command_is_being_loaded() -> None:
    """No traceback: it ends as any program that has no idea of Ctrl-C."""
    command = [sys.executable, "-c", LOADING, "--help"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "loading\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (-signal.SIGINT, "", "")


def test_the_entry_points_are_there() -> None:
    """kubectl finds its plugin by the name of the program."""
    options = configparser.ConfigParser()
    options.read(ROOT / "setup.cfg")
    lines = options["options.entry_points"]["console_scripts"].split("\n")
    named = dict(line.split(" = ") for line in lines if line)
    assert set(named) == {"tproxy", "kubectl-tproxy", "kubectl_complete-tproxy"}
    for where in named.values():
        module, function = where.split(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_the_reference_is_current() -> None:
    """If not: `python -m tproxy_cli.reference > docs/reference/cli.md`."""
    assert (ROOT / "docs/reference/cli.md").read_text() == reference.render()
