"""What is said of a node whose daemon does not answer."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from tproxy_node.debug import offline

STEERS: dict[str, Any] = {"held": {"attached": True, "leaseSeconds": 1.0, "ports": [{"port": 80}]}}
LATE: dict[str, Any] = {"held": {**STEERS["held"], "leaseSeconds": -3.0}}
NEVER: dict[str, Any] = {"held": {**STEERS["held"], "leaseSeconds": None}}
NO_PORT: dict[str, Any] = {"held": {**STEERS["held"], "ports": []}}
LOOSE: dict[str, Any] = {"held": {**STEERS["held"], "attached": False}}


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ([], "the kernel holds nothing of tproxy: every new connection goes to its app"),
        ([LATE, NEVER, NO_PORT, LOOSE], "what the kernel still holds steers nothing"),
        ([LATE, STEERS], "1 of 2 attachments steer: somebody renews their lease"),
    ],
)
def test_what_it_means(held: list[dict[str, Any]], said: str) -> None:
    first, second = offline.states([{"daemon": {"pid": 7, "state": "is stopped"}}, *held])
    assert first == "node daemon: process 7 is stopped"
    assert second.startswith(said)


def test_who_listens(tmp_path: Path) -> None:
    path = tmp_path / "node.sock"
    assert offline.daemon(path, Path("/proc"))["pid"] == 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        assert offline.daemon(path, Path("/proc")) == {"pid": os.getpid(), "state": "runs"}
        assert "gone" in offline.daemon(path, tmp_path)["state"]
