"""The daemon as a process: one per user, its files its own, every answer in the form that was agreed on."""

import contextlib
import json
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tproxy_cli import paths
from tproxy_cli.client import ANOTHER_RUNS
from tproxy_cli.daemon.process import main

ROOT = Path(__file__).parents[3]
DEADLINE_SECONDS = 10.0


class Process:
    """A daemon of its own runtime and state directories."""

    def __init__(self, directory: Path) -> None:
        self.runtime, self.state = directory / "run", directory / "state"
        self.socket = self.runtime / "tproxy" / "daemon.sock"
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("", "cli")),
            "XDG_RUNTIME_DIR": str(self.runtime),
            "XDG_STATE_HOME": str(self.state),
        }
        self.runtime.mkdir(mode=0o700)
        self.running: list[subprocess.Popen[str]] = []

    def start(self, wait: bool = True) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", "tproxy_cli.daemon"],
            env=self._environment,
            cwd="/",
            stderr=subprocess.PIPE,
            text=True,
        )
        self.running.append(process)
        if wait:
            self.wait(self.listens, "a daemon that listens")
        return process

    def listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def ask(self, path: str, body: bytes = b"{}") -> list[dict[str, Any]]:
        """The lines of an answer."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(DEADLINE_SECONDS)
            connection.connect(str(self.socket))
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            with connection.makefile("rb") as answer:
                return [json.loads(line) for line in answer.read().splitlines() if line.startswith(b"{")]

    @staticmethod
    def wait(condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"no {what}"
            time.sleep(0.01)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Process]:
    one = Process(tmp_path)
    yield one
    for process in one.running:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.communicate()


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_its_files_are_its_own(daemon: Process) -> None:
    daemon.start()
    [answer] = daemon.ask("/v1/status")
    assert answer["result"]["clusters"] == []
    assert answer["result"]["daemon"]["socket"] == str(daemon.socket)
    assert _mode(daemon.runtime / "tproxy") == 0o700
    assert _mode(daemon.socket) == 0o600
    assert _mode(daemon.state / "tproxy") == 0o700
    assert _mode(daemon.state / "tproxy" / "daemon.log") == 0o600


def test_whoever_finds_it_listening_may_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last of its sockets is the one by which commands find it."""
    order: list[Path] = []
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr("tproxy_cli.daemon.process._listen", lambda path, _kind=None: order.append(path))
    monkeypatch.setattr("tproxy_cli.daemon.process._serve", lambda _listener, _door: None)
    mask = os.umask(0)
    try:
        assert main() == 0
    finally:
        os.umask(mask)
    assert order == [paths.run_socket_path(), paths.socket_path()]


def test_there_is_one_at_a_time(daemon: Process) -> None:
    first = daemon.start()
    second = daemon.start(wait=False)
    _, said = second.communicate(timeout=DEADLINE_SECONDS)
    assert second.returncode == ANOTHER_RUNS
    assert said.startswith(f"error: a tproxy daemon of yours is running already (process {first.pid})")
    assert "hint: " in said
    assert daemon.ask("/v1/version")[0]["result"]["version"], "the first one is not disturbed"


def test_a_killed_one_is_replaced(daemon: Process) -> None:
    first = daemon.start()
    first.kill()
    first.wait()
    assert daemon.socket.exists()
    assert not daemon.listens()
    second = daemon.start()
    assert daemon.ask("/v1/status")[0]["result"]["daemon"]["pid"] == second.pid


@pytest.mark.parametrize("end", ["quit", "SIGTERM", "SIGINT"])
def test_it_ends_in_order(daemon: Process, end: str) -> None:
    process = daemon.start()
    daemon.ask("/v1/version")
    if end == "quit":
        assert daemon.ask("/v1/quit") == [{"result": {"left": 0}}]
    else:
        process.send_signal(signal.Signals[end])
    _, said = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 0
    assert said == ""
    assert not daemon.socket.exists()


def test_it_takes_as_many_descriptors_as_it_may(daemon: Process) -> None:
    process = daemon.start()
    daemon.ask("/v1/version")
    soft, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    assert soft == min(hard, 1 << 20)


def test_nonsense_gets_an_error_in_the_agreed_form(daemon: Process) -> None:
    daemon.start()
    for body in (b"", b"{", b"[]", b"\xff", b'{"target": 3}', b'{"cluster": 3, "target": "web"}'):
        [answer] = daemon.ask("/v1/intercept", body)
        assert answer["error"]["exitCode"] == 2
        assert answer["error"]["message"]


def test_no_cluster_is_an_error_of_the_cluster(daemon: Process) -> None:
    daemon.start()
    body = json.dumps({"target": "web", "ports": ["3000"]}).encode()
    answer = daemon.ask("/v1/intercept", body)[-1]
    assert answer["error"]["exitCode"] == 3
    assert answer["error"]["hint"]


def test_a_client_that_goes_away_cancels_what_it_asked_for(daemon: Process, tmp_path: Path) -> None:
    """The API server here accepts and never answers, so that the request would go on for long."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        kubeconfig = tmp_path / "kubeconfig"
        server = f"http://127.0.0.1:{silent.getsockname()[1]}"
        kubeconfig.write_text(
            f"current-context: c\ncontexts: [{{name: c, context: {{cluster: c}}}}]\n"
            f"clusters: [{{name: c, cluster: {{server: '{server}'}}}}]\n"
        )
        daemon.start()
        body = json.dumps({"cluster": {"kubeconfig": str(kubeconfig)}, "target": "web", "ports": ["3000"]}).encode()
        head = f"POST /v1/intercept HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(daemon.socket))
            client.sendall(head + body)
            accepted, _ = silent.accept()
            assert accepted.recv(1000)
        with accepted:
            accepted.settimeout(DEADLINE_SECONDS)
            while accepted.recv(1000):  # the daemon hangs up on the API server
                pass
    assert daemon.ask("/v1/status")[0]["result"]["daemon"]["state"] == "running"


def test_an_unwritable_state_directory_is_a_sentence(daemon: Process) -> None:
    (daemon.state / "tproxy").mkdir(parents=True, mode=0o700)
    (daemon.state / "tproxy" / "daemon.log").mkdir()
    process = daemon.start(wait=False)
    _, said = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 1
    assert said.startswith("error: cannot write the log")
    assert not daemon.socket.exists()


def test_it_imports_where_there_is_no_linux() -> None:
    code = """
import asyncio, socket, sys, time, urllib.request
for missing in ("pyroute2", "iptc", "uvloop", "prometheus_client"):
    sys.modules[missing] = None
del socket.SO_PEERCRED, time.CLOCK_BOOTTIME
sys.platform = "darwin"
import tproxy_cli.daemon.__main__, tproxy_cli.daemon.clock, tproxy_cli.daemon.server
assert tproxy_cli.daemon.clock.seconds_since_boot() > 0
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("", "cli"))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
