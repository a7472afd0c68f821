"""One lab for the whole run, driven through the command line, with helpers to put things into it and look at it.

lab         the lab, with node daemons, which are exposed; brought up once, removed at the end
scene       apps in it and one on its laptop, for the tests of what must hold
where       the lab that a test is in, which may be each of the two in turn
namespace   a fresh namespace of that lab for one test
other_lab   another lab, with the other settings of the node daemons
own_lab     makes labs of a test's own, and removes what is left of them
"""

import contextlib
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.lab.scene import Scene, playing
from tproxy.errors import TproxyError
from tproxy.kube.port import NAMESPACES
from tproxy.lab import records
from tproxy.lab.client import Client
from tproxy.lab.enter import enter
from tproxy.lab.exec import find
from tproxy.lab.launch import down
from tproxy.lab.layout import Layout

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "from tproxy_cli.main import main; main()"]
DEADLINE_SECONDS = 20.0

T = TypeVar("T")
Completed = subprocess.CompletedProcess[str]


def environment() -> dict[str, str]:
    """The environment of commands: works from a checkout that is not installed, takes no one's configuration."""
    path = os.pathsep.join(str(ROOT / part) for part in ("", "cli", "node-daemon"))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("TPROXY_", "KUBECONFIG"))}
    return inherited | {"PYTHONPATH": os.pathsep.join(filter(None, (path, os.environ.get("PYTHONPATH"))))}


class Lab:
    """A lab as a person has it: its commands, and conditions to wait for."""

    def __init__(self, name: str) -> None:
        self.layout = Layout(name)
        self.client = Client(self.layout)

    def run(
        self,
        verb: str,
        *args: str,
        check: bool = True,
        text: str | None = None,
        timeout: float = 60,
        through: Sequence[str] = (),
    ) -> Completed:
        """Run `tproxy lab VERB --name LAB ARGS`; `text` is its input, `through` a command to start it with.

        Fails the test on an error if `check`.
        """
        done = subprocess.run(
            [*through, *COMMAND, "lab", verb, "--name", self.layout.name, *args],
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            text=True,
            env=environment(),
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            pytest.fail(f"lab {verb} {' '.join(args)} exited with {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def exec(self, place: str, *command: str, check: bool = True, text: str | None = None) -> Completed:
        """Run a command in a place, as `lab exec` does but without starting a command line for it."""
        entrance = find(self.layout, self.status(), place)
        joined = ["/bin/sh", "-c", 'echo 0 > "$0/cgroup.procs" && exec "$@"', str(entrance.group)]
        done = subprocess.run(
            [*joined, *enter(entrance.holder, command, entrance.directory)],
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            text=True,
            env={**entrance.environment, "PYTHONPATH": environment()["PYTHONPATH"]},
            timeout=60,
            check=False,
        )
        if check and done.returncode:
            pytest.fail(f"{' '.join(command)} in {place} exited with {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def start(self, verb: str, *args: str, **settings: Any) -> subprocess.Popen[str]:
        """Begin `tproxy lab VERB --name LAB ARGS` in the background."""
        line = [*COMMAND, "lab", verb, "--name", self.layout.name, *args]
        return subprocess.Popen(line, env=environment(), text=True, **settings)

    def apply(self, manifests: str, namespace: str = "default", wait: bool = True) -> str:
        """Apply manifests given as text, by default until they serve; returns what was printed."""
        return self.run("apply", "-f", "-", "-n", namespace, *(["--wait"] if wait else []), text=manifests).stdout

    def status(self) -> dict[str, Any]:
        """What `lab status -o json` prints."""
        return records.facts(self.layout)

    def pods(self, namespace: str, prefix: str = "") -> list[Any]:
        """The records of a namespace's pods whose names begin with `prefix`."""
        found = self.status()["pods"]
        return [pod for pod in found if pod["namespace"] == namespace and pod["name"].startswith(prefix)]

    def ready_pod(self, namespace: str, prefix: str = "") -> Any:
        """The record of one ready pod; waits for it."""
        return self.wait(lambda: [pod for pod in self.pods(namespace, prefix) if pod["ready"]], "a ready pod")[0]

    @staticmethod
    def server(name: str, replicas: int = 1, port: int = 8080, extra: str = "", args: Sequence[str] = ()) -> str:
        """Manifests of a Deployment `name` and its Service on port 80: an HTTP server that says who it is."""
        command = json.dumps(["python", str(ROOT / "tests" / "lab" / "hello.py"), "--port", str(port), *args])
        return f"""
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
      - name: {name}
        command: {command}
        env: [{{name: POD, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}]
        ports: [{{name: http, containerPort: {port}}}]
        readinessProbe: {{httpGet: {{path: /ready, port: http}}, periodSeconds: 1, failureThreshold: 1}}
        {extra}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  selector: {{app: {name}}}
  ports: [{{name: http, port: 80, targetPort: http}}]
"""

    @staticmethod
    def wait(condition: Callable[[], T], what: str, seconds: float = DEADLINE_SECONDS) -> T:
        """Return the first true result of `condition`; fail the test when it takes too long."""
        deadline = time.monotonic() + seconds
        while not (result := condition()):
            if time.monotonic() > deadline:
                pytest.fail(f"after {seconds:g} s there is still not: {what}")
            time.sleep(0.02)
        return result


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """A lab with everything in it."""
    one = Lab(f"test-{secrets.token_hex(3)}")
    try:
        one.run("up", "--direct")
        yield one
        log = one.layout.server_log.read_text()
        assert "Traceback" not in log, log
    finally:
        down(one.layout)


@pytest.fixture(scope="session")
def other_lab() -> Iterator[Lab]:
    """A lab with the other settings: node daemons steer by TPROXY rules and leave reading to users' own rights."""
    one = Lab(f"test-{secrets.token_hex(3)}")
    flags = ("--steering=tproxy", "--environment=user", "--files=user")
    try:
        one.run("up", "--nodes", "1", *(f"--daemon-flag={flag}" for flag in flags))
        yield one
        log = one.layout.server_log.read_text()
        assert "Traceback" not in log, log
    finally:
        down(one.layout)


@pytest.fixture
def where(request: pytest.FixtureRequest) -> Lab:
    """The lab that a test is in: each in turn for `tests.lab.laptop.each_backend`, else the first."""
    found: Lab = request.getfixturevalue(getattr(request, "param", "lab"))
    return found


@pytest.fixture
def namespace(where: Lab) -> Iterator[str]:
    """A namespace for one test; everything in it is deleted afterwards."""
    name = f"test-{secrets.token_hex(3)}"
    where.client.create(NAMESPACES, {"metadata": {"name": name}})
    yield name
    with contextlib.suppress(TproxyError):
        where.client.delete(NAMESPACES, name)


@pytest.fixture(scope="session")
def scene(lab: Lab) -> Iterator[Scene]:
    """What the tests of what must hold share; nobody intercepts there between tests."""
    lab.client.create(NAMESPACES, {"metadata": {"name": "scene"}})
    with playing(lab, "scene") as one:
        yield one


@pytest.fixture
def own_lab() -> Iterator[Callable[..., Lab]]:
    """A maker of labs for this test alone: called with the arguments of `lab up`, or None for one that is not up."""
    made: list[Lab] = []

    def make(*args: str | None) -> Lab:
        one = Lab(f"test-{secrets.token_hex(3)}")
        made.append(one)
        if None not in args:
            one.run("up", *(arg for arg in args if arg))
        return one

    yield make
    for one in made:
        down(one.layout)
