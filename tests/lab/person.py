"""An ordinary user at the laptop of the lab: no root, no sudo, a home of their own."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.lab.laptop import TPROXY
from tproxy.lab.enter import enter
from tproxy.lab.exec import find
from tproxy.lab.ordinary import USER, ordinary


class Started(subprocess.Popen[str]):
    """A command that does not outlive a test that fails while it runs."""

    def __exit__(self, kind: Any, *details: Any) -> None:
        if kind is not None:
            self.kill()
        super().__exit__(kind, *details)


class Person:
    """Works in `namespace` of a lab. `close` ends their daemon."""

    def __init__(self, lab: Any, namespace: str, uid: int = USER) -> None:
        self.lab, self.namespace, self.uid = lab, namespace, uid
        self._home = tempfile.TemporaryDirectory(prefix="tproxy-t-")
        self.home = Path(self._home.name)
        kubeconfig = self.home / "kubeconfig"
        shutil.copy(lab.layout.laptop_kubeconfig, kubeconfig)
        for path in (self.home, kubeconfig):
            os.chown(path, uid, uid)
        self.environment = {
            "HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(self.home),
            "XDG_STATE_HOME": str(self.home / "state"),
            "KUBECONFIG": str(kubeconfig),
            "TPROXY_NAMESPACE": namespace,
            "LANG": "C.UTF-8",
        }

    def start(self, *command: str, **settings: Any) -> Started:
        """Begin a command on the laptop."""
        entrance = find(self.lab.layout, self.lab.status(), "laptop")
        inherited = {
            name: entrance.environment[name] for name in ("PATH", "PYTHONPATH") if name in entrance.environment
        }
        settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL} | settings
        environment = inherited | {"PYTHONPATH": os.pathsep.join(sys.path)} | self.environment
        environment |= settings.pop("environment", {})
        line = enter(entrance.holder, ordinary(command, self.uid), str(self.home))
        return Started(line, text=True, env=environment, **settings)

    def exec(
        self, *command: str, check: bool = True, text: str | None = None, timeout: float = 60, **settings: Any
    ) -> Any:
        """Run a command on the laptop; what came of it."""
        settings |= {} if text is None else {"stdin": subprocess.PIPE}
        with self.start(*command, **settings) as process:
            try:
                out, err = process.communicate(text, timeout=timeout)
            except BaseException:
                process.kill()
                raise
        assert not check or process.returncode == 0, f"{command} exited with {process.returncode}\n{out}{err}"
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def tproxy(self, *arguments: str, **settings: Any) -> Any:
        """Run a command of ours."""
        return self.exec(sys.executable, *TPROXY[1:], *arguments, **settings)

    def run(self, *words: str, options: Sequence[str] = (), **settings: Any) -> Any:
        """`tproxy run`."""
        return self.tproxy("run", *options, "--", *words, **settings)

    def begin(self, *words: str, options: Sequence[str] = (), **settings: Any) -> Started:
        """Begin `tproxy run`."""
        return self.start(sys.executable, *TPROXY[1:], "run", *options, "--", *words, **settings)

    def python(self, code: str, options: Sequence[str] = ()) -> str:
        """What a Python program prints that is run."""
        return str(self.run(sys.executable, "-c", code, options=options).stdout).strip()

    def processes(self) -> list[str]:
        """What still runs in their name."""
        listed = subprocess.run(["ps", "-o", "args=", "-u", str(self.uid)], capture_output=True, text=True, check=False)
        return listed.stdout.splitlines()

    def close(self) -> None:
        """End the daemon, and forget the home."""
        try:
            self.tproxy("quit", check=False)
        finally:
            self._home.cleanup()
