"""What holds for the project as a whole."""

import ast
import configparser
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE_ROOTS = {"tproxy": "tproxy", "tproxy_cli": "cli/tproxy_cli", "tproxy_node": "node-daemon/tproxy_node"}


def _setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def test_every_package_is_listed() -> None:
    found = set()
    for name, folder in PACKAGE_ROOTS.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            found.add(".".join((name, *init.parent.relative_to(ROOT / folder).parts)))
    assert found == set(_setup()["options"]["packages"].split())


def test_generated_protocol_code_is_current(tmp_path: Path) -> None:
    arguments = ["-I", str(ROOT), *(f"--{kind}_out={tmp_path}" for kind in ("python", "pyi"))]
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", *arguments, "tproxy/rpc/v1/tunnel.proto"], check=True, cwd=ROOT
    )
    for generated in (tmp_path / "tproxy/rpc/v1").iterdir():
        assert generated.read_text() == (ROOT / "tproxy/rpc/v1" / generated.name).read_text(), generated.name


def test_modules_say_what_they_are_for() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for folder in (*PACKAGE_ROOTS.values(), "demo", "bench", "tests")
        for path in (ROOT / folder).rglob("*.py")
        if "_pb2" not in path.name and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []


@pytest.mark.parametrize("folder", [*PACKAGE_ROOTS.values()])
def test_files_stay_small(folder: str) -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in (ROOT / folder).rglob("*.py")
        if "_pb2" not in path.name and (lines := len(path.read_text().splitlines())) > 400
    }
    assert long == {}


def test_pinned_requirements_cover_the_declared_ones() -> None:
    options = _setup()
    declared = options["options"]["install_requires"] + "".join(options["options.extras_require"].values())
    names = {
        line.split(";")[0].split(">")[0].strip().lower().replace("_", "-")
        for line in declared.splitlines()
        if line.strip()
    }
    pinned = {
        line.split("==")[0].lower()
        for line in (ROOT / "requirements/dev.txt").read_text().splitlines()
        if "==" in line and not line.startswith(" ")
    }
    assert names <= pinned
