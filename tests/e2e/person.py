"""A developer at the laptop: with a kubeconfig, a home, and commands of tproxy."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.e2e.cluster import Cluster
from tests.e2e.place import Process
from tproxy.lab.ordinary import ordinary

TPROXY = (sys.executable, "-c", "from tproxy_cli.main import main; main()")
DEADLINE_SECONDS = 60.0


class Person:
    """Runs as a context manager, which ends their daemon. With `uid` they are no root there."""

    def __init__(self, cluster: Cluster, user: str, uid: int = 0) -> None:
        self.user = user
        self._place, self._uid = cluster.laptop, uid
        self.home = Path("/run") / f"home-{user}"
        self._logs = cluster.directory
        kubeconfig = cluster.plane.kubeconfig_of(user)
        self._place.shell(
            'mkdir -m 700 "$1" "$1/state" "$1/config"; cp "$2" "$1/kubeconfig"; chown -R "$3:$3" "$1"',
            self.home,
            kubeconfig,
            str(uid),
        )
        path = [str(Path(sys.executable).parent), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
        self.environment = {
            "HOME": str(self.home),
            "PATH": os.pathsep.join(path),
            "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
            "XDG_RUNTIME_DIR": str(self.home),
            "XDG_STATE_HOME": str(self.home / "state"),
            "XDG_CONFIG_HOME": str(self.home / "config"),
            "KUBECONFIG": str(self.home / "kubeconfig"),
            "LANG": "C.UTF-8",
        }

    def __enter__(self) -> "Person":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.tproxy("quit", check=False)

    def run(self, *command: str | Path, check: bool = True, **variables: str) -> "subprocess.CompletedProcess[str]":
        """Run a command on the laptop."""
        return self._place.run(*self._as(*command), check=check, env={**self.environment, **variables})

    def start(self, name: str, *command: str | Path, **variables: str) -> Process:
        """Begin a command there; the caller ends it."""
        log = self._logs / f"{self.user}-{name}.log"
        return self._place.start(*self._as(*command), log=log, environment={**self.environment, **variables})

    def tproxy(self, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run a command of tproxy."""
        return self.run(*TPROXY, *arguments, check=check)

    def json(self, *arguments: str) -> Any:
        """What a command of tproxy prints as JSON."""
        return json.loads(self.tproxy(*arguments, "-o", "json").stdout)

    def get(self, url: str, *options: str) -> str:
        """What curl on the laptop gets; empty if nothing."""
        return self.run("curl", "-s", "--max-time", "5", *options, url, check=False).stdout.strip()

    def reach(self, url: str) -> str:
        """The same, of what there must be."""
        return self.run("curl", "-sS", "--fail", "--max-time", "20", url).stdout.strip()

    def copy(self, directory: Path) -> Path:
        """A copy of a directory in their home, to be edited."""
        target = self.home / directory.name
        self.run("cp", "-r", directory, target)
        return target

    def _as(self, *command: str | Path) -> list[str]:
        words = list(map(str, command))
        return ordinary(words, self._uid) if self._uid else words


def wait(condition: Callable[[], Any], what: str, seconds: float = DEADLINE_SECONDS) -> Any:
    """The first true result of `condition`. Raises AssertionError when it takes too long."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"after {seconds:g} s there is still not: {what}"
        time.sleep(0.05)
    return result
