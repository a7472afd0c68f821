"""A home of its own for each test, the command line run in-process, and a daemon to talk to."""

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tproxy_cli import main, paths

from tests.unit.cli.fakes import FakeDaemon, Outcome, Server
from tproxy.version import VERSION


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, so that neither the machine's settings nor a real daemon play a part."""
    for name in os.environ:
        if name.startswith(("TPROXY_", "XDG_")) or name in ("KUBECONFIG", "NO_COLOR"):
            monkeypatch.delenv(name)
    (tmp_path / "run").mkdir(mode=0o700)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    return tmp_path


@pytest.fixture
def tproxy(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run one command in this process."""

    def run(*args: str) -> Outcome:
        capsys.readouterr()
        code = main.run(list(args))
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    """A daemon of our version on the socket that commands use."""
    fake = FakeDaemon({"/v1/version": [{"result": {"version": VERSION}}]})
    with Server(str(paths.socket_path()), fake) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield fake
        finally:
            fake.hang.set()
            server.shutdown()
            thread.join()
