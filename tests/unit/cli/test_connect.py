"""`tproxy connect` at the command line: who may, what sudo says, and what is told."""

import os
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tproxy_cli.commands import connect as module
from tproxy_cli.connect.codes import FAILED, IN_USE, NO_IPTABLES, NOT_POSSIBLE
from tproxy_cli.connect.start import as_root
from tproxy_cli.ui.console import Console

from tproxy.errors import ClusterError, ConflictError, DeniedError, TproxyError


@pytest.fixture
def meeting(tmp_path: Path) -> Iterator[str]:
    """Where the helper's socket is met."""
    path = str(tmp_path / "connect.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen(1)
        yield path


@pytest.fixture
def sudo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a sudo of our own on the path of a user who is not root; its script sees the arguments."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")

    def script(text: str) -> None:
        path = directory / "sudo"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    return script


def test_sudo_starts_the_helper_and_nothing_else(sudo: Any, meeting: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    sudo(f'for word; do echo "$word" >> {log}; done; readlink /proc/self/fd/0 >> {log}')
    module._start_helper(Console(), meeting)
    *words, stdin = log.read_text().splitlines()
    assert words[-5:] == ["--", sys.executable, "-I", "-m", "tproxy_cli.connect.helper"]
    assert "--non-interactive" in words, "nobody can be asked for a password here"
    assert stdin.startswith("socket:")
    assert not any(meeting in word for word in words), "no path is handed over"


@pytest.mark.parametrize(
    ("status", "error", "says"),
    [
        (1, DeniedError, "sudo did not start the root helper"),
        (IN_USE, ConflictError, "connected host-wide already"),
        (NO_IPTABLES, ClusterError, "iptables"),
        (FAILED, TproxyError, "could not install"),
        (NOT_POSSIBLE, TproxyError, "could not install"),
    ],
)
def test_what_goes_wrong_is_told(sudo: Any, meeting: str, status: int, error: type[TproxyError], says: str) -> None:
    sudo(f"exit {status}")
    with pytest.raises(error, match=says) as caught:
        module._start_helper(Console(), meeting)
    assert caught.value.hint


def test_without_sudo_there_is_another_way(meeting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeniedError, match="there is no sudo") as caught:
        module._start_helper(Console(), meeting)
    assert "tproxy run" in caught.value.hint


def test_root_needs_no_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert as_root() == [sys.executable]
