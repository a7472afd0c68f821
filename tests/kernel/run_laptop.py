"""An ordinary user with a daemon whose cluster is a stand-in, for tests of `tproxy run` on the real kernel."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tproxy.lab.ordinary import USER, ordinary

ROOT = Path(__file__).parents[2]
DEADLINE = 15.0


class Laptop:
    """An ordinary user's runs, and servers of the laptop."""

    def __init__(self, home: Path) -> None:
        home.mkdir(mode=0o700)
        os.chown(home, USER, USER)
        path = os.pathsep.join(str(ROOT / part) for part in ("", "cli", "node-daemon"))
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        self.environment = {**kept, "HOME": str(home), "XDG_RUNTIME_DIR": str(home), "PYTHONPATH": path}
        self.home = home
        self.started: list[subprocess.Popen[str]] = []
        self.daemon = self.start("tests.kernel.run_daemon", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.daemon.stdout is not None
        assert self.daemon.stdout.readline() == "ready\n"

    def start(self, module: str, *arguments: str, **settings: Any) -> "subprocess.Popen[str]":
        command = ordinary([sys.executable, "-m", module, *arguments])
        environment = self.environment | settings.pop("environment", {})
        process = subprocess.Popen(command, cwd=self.home, env=environment, text=True, **settings)
        self.started.append(process)
        return process

    def begin(self, *words: str, options: Sequence[str] = (), **settings: Any) -> "subprocess.Popen[str]":
        settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | settings
        return self.start("tests.kernel.run_client", *options, "--", *words, **settings)

    def run(self, *words: str, text: str | None = None, **settings: Any) -> subprocess.CompletedProcess[str]:
        settings = {"stdin": subprocess.DEVNULL if text is None else subprocess.PIPE} | settings
        process = self.begin(*words, **settings)
        out, err = process.communicate(text, timeout=DEADLINE)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def python(self, code: str, **settings: Any) -> str:
        done = self.run(sys.executable, "-c", code, **settings)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def close(self) -> None:
        try:
            if self.daemon.poll() is None:
                out, _ = self.daemon.communicate("", timeout=DEADLINE)
                assert out == "idle\n"
        finally:
            for process in self.started:
                process.kill()
                process.wait()
                for pipe in (process.stdin, process.stdout, process.stderr):
                    if pipe is not None:
                        pipe.close()
        until(lambda: not processes(), "every process has ended")


def processes() -> list[str]:
    """Everything that runs as the ordinary user."""
    listed = subprocess.run(["ps", "-o", "args=", "-u", str(USER)], capture_output=True, text=True, check=False)
    return listed.stdout.splitlines()


def until(condition: Any, what: str) -> Any:
    deadline = time.monotonic() + DEADLINE
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.01)
    return found


def process_inside() -> int:
    """The process that keeps the namespaces of the only run."""
    listed = subprocess.run(["ps", "-o", "pid=,comm=", "-u", str(USER)], capture_output=True, text=True, check=True)
    return next(int(line.split()[0]) for line in listed.stdout.splitlines() if line.split()[1] == "tproxy-inside")
