"""The container's environment and files on the laptop, as a person gets them."""

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.lab.laptop import Laptop

VARIABLES = {"GREETING": 'it\'s "$HOME" \\', "PEM": "-----BEGIN-----\nabc\n-----END-----\n", "PASSWORD": "s3cret-value"}


@pytest.fixture
def person(lab, namespace):  # type: ignore[no-untyped-def]
    one = Laptop(lab, namespace)
    env = json.dumps([{"name": name, "value": value} for name, value in VARIABLES.items()])
    lab.apply(lab.server("web", extra="").replace("env: [", f"env: [{env[1:-1]}, "), namespace)
    yield one
    one.tproxy("quit", check=False)


def test_the_environment_in_a_file(person: Laptop, tmp_path: Path) -> None:
    file = tmp_path / "web.env"
    file.write_text("old")
    file.chmod(0o644)
    result = person.json(
        "intercept", "web", "-p", "3000:8080", "-n", person.namespace, "--env-file", str(file), "--env-format", "sh"
    )
    assert "s3cret-value" not in json.dumps(result)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    shown = subprocess.run(["sh", "-c", '. "$0"; env -0', str(file)], capture_output=True, check=True, text=True).stdout
    seen = dict(entry.split("=", 1) for entry in shown.split("\0") if entry)
    assert {name: seen.get(name) for name in VARIABLES} == VARIABLES
    assert seen["POD"].startswith("web-")
    assert seen["PATH"] == os.environ["PATH"]
