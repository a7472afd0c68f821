"""Capabilities of containers in the lab: what is dropped is gone for good."""

import os
import subprocess
from typing import Any

import pytest

from tproxy.errors import InvalidError
from tproxy.lab.capabilities import limited

BIT = {"CHOWN": 0, "NET_ADMIN": 12, "SYS_ADMIN": 21}


def container(**capabilities: list[str]) -> dict[str, Any]:
    return {"name": "c", "securityContext": {"capabilities": capabilities}}


def held(command: list[str]) -> dict[str, set[str]]:
    """Which of BIT a process of this command has, by the kernel's account of each of its sets."""
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    sets = dict(line.split(":\t") for line in said.splitlines() if line.startswith("Cap"))
    return {kind: {name for name, bit in BIT.items() if int(mask, 16) >> bit & 1} for kind, mask in sets.items()}


def test_who_asks_for_nothing_runs_as_it_is() -> None:
    assert limited(["true"], {"name": "c"}) == ["true"]
    assert limited(["true"], {"name": "c", "securityContext": {"privileged": False}}) == ["true"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_what_is_dropped_is_gone_for_children_too() -> None:
    command = limited(["sh", "-c", "cat /proc/self/status"], container(drop=["ALL"], add=["NET_ADMIN", "SYS_ADMIN"]))
    found = held(command)
    assert found["CapEff"] == found["CapPrm"] == found["CapBnd"] == {"NET_ADMIN", "SYS_ADMIN"}
    assert found["CapInh"] == found["CapAmb"] == set()
    assert held(limited(["cat", "/proc/self/status"], container(drop=["ALL"])))["CapEff"] == set()


@pytest.mark.parametrize("capabilities", [{"drop": ["CHOWN"]}, {"add": ["SYS_TIME"]}])
def test_anything_else_is_not_understood(capabilities: dict[str, list[str]]) -> None:
    with pytest.raises(InvalidError, match="container c: the lab knows no capabilities but"):
        limited(["true"], container(**capabilities))
