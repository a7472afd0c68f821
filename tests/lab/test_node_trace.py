"""`tproxy node trace`, as a person uses it: what is shown while things go wrong, and that nothing stays."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.kernel.tracing import maps, programs
from tests.lab.conftest import environment
from tests.lab.laptop import TPROXY
from tests.lab.scene import PORT, Scene


class Following:
    """A command on the laptop whose output is read while it runs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []

    def until(self, *texts: str) -> str:
        """Read lines until one has all of these in it; fails where there are no more."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if all(text in line for text in texts):
                return line
        raise AssertionError((texts, self.lines, self.process.wait(10)))

    def interrupt(self) -> str:
        """Ctrl-C; what it then says."""
        os.killpg(self.process.pid, signal.SIGINT)
        rest, _ = self.process.communicate(timeout=30)
        return rest


@contextlib.contextmanager
def following(lab: Any, *arguments: str) -> Iterator[Following]:
    """`tproxy node …` in the background, in a process group of its own, as a terminal has it."""
    process = lab.start(
        "exec", "laptop", "--", "env", "--default-signal=INT", *TPROXY, "node", *arguments,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        yield Following(process)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=30)


def tracing(node_daemon: int) -> list[int]:
    """The processes that trace for a node daemon."""
    children = Path(f"/proc/{node_daemon}/task/{node_daemon}/children").read_text().split()
    return [int(pid) for pid in children if b"tproxy_node.trace" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_a_person_sees_what_happens_and_a_summary(scene: Scene) -> None:
    pod = scene.pods()[0]
    node, name = pod["node"], f"{scene.namespace}/{pod['name']}"
    before = programs(), maps()
    with following(scene.lab, "trace", node, "--pod", name, "--events", "state,reset-sent,drop,steer") as trace:
        trace.until("tracing 1 pod of node")
        trace.until("LOCAL")
        assert len(tracing(scene.daemon(node))) == 1
        scene.lab.exec("user", "curl", "-sg", f"http://{scene.address()}:{PORT}/")
        trace.until(f"{scene.address()}:{PORT} ", "LAST_ACK -> CLOSE")  # probes are of another port
        scene.lab.exec("user", "curl", "-sg", f"http://{scene.address()}:9/", check=False)
        trace.until(f"{scene.address()}:9 ", "NO_SOCKET")
        with scene.intercepted():
            scene.lab.exec("user", "curl", "-sg", f"http://{scene.address()}:{PORT}/")
            trace.until(f"{scene.address()}:{PORT} ", "laptop: of its intercept")
        said = trace.interrupt()
    assert trace.process.returncode == 0, said
    assert "open for: " in said
    assert "dropped packets: " in said
    assert "Traceback" not in said
    scene.lab.wait(lambda: not tracing(scene.daemon(node)), "the end of the process")
    scene.lab.wait(lambda: not programs() - before[0] and not maps() - before[1], "nothing left")


def test_json_for_a_while(scene: Scene) -> None:
    pod = scene.pods()[0]
    lines = scene.tproxy(
        "node", "trace", pod["node"], "--seconds", "2", "--events", "state", "--port", "9", "-o", "json"
    ).stdout.splitlines()
    assert json.loads(lines[-1])["summary"]["events"] == {"state": 0}, "probes come all the time, of other ports"
    assert len(lines) == 1


def test_what_cannot_be_traced(scene: Scene) -> None:
    node = scene.pods()[0]["node"]
    for arguments, message in (
        ((node, "--pod", "scene/none"), f"no pod scene/none runs on node {node}"),
        ((node, "--pod", "a/b/c"), "'a/b/c' is not NAMESPACE/NAME of a pod"),
        ((node, "--events", "nonsense"), "there is no event 'nonsense' to trace"),
        (("nowhere",), "nowhere"),
    ):
        done = scene.tproxy("node", "trace", *arguments, check=False)
        assert done.returncode in (2, 3)
        assert message in done.stderr
        assert "Traceback" not in done.stderr
        assert done.stdout == ""


def test_no_more_than_two(scene: Scene) -> None:
    node = scene.pods()[0]["node"]
    with following(scene.lab, "trace", node) as one, following(scene.lab, "trace", node) as two:
        one.until("LOCAL")
        two.until("LOCAL")
        done = scene.tproxy("node", "trace", node, check=False)
        assert "too many traces run on this node" in done.stderr
        os.kill(tracing(scene.daemon(node))[0], signal.SIGKILL)
        scene.lab.wait(lambda: one.process.poll() or two.process.poll(), "one of them to say that it is over")
    ended = one if one.process.returncode == 3 else two
    assert ended.process.returncode == 3


DEAF = """
apiVersion: v1
kind: Pod
metadata: {{name: deaf}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: deaf
    command: [python, -c, {program}]
"""
PROGRAM = "import socket, time; s = socket.create_server(('', 8080), backlog=1); time.sleep(3600)"


def test_an_app_that_does_not_accept(scene: Scene, namespace: str) -> None:
    scene.lab.apply(DEAF.format(program=json.dumps(PROGRAM)), namespace)
    pod = scene.lab.ready_pod(namespace)
    with following(scene.lab, "trace", pod["node"], "--pod", f"{namespace}/deaf", "--port", "8080") as trace:
        trace.until("LOCAL")
        address = pod["addresses"][0]
        client = f"import socket; a = [socket.create_connection(('{address}', 8080), 2) for _ in range(4)]"
        assert scene.lab.exec("user", "python", "-c", client, check=False).returncode == 1, "there is no room for four"
        line = trace.until("overflow")
    assert "0.0.0.0:8080" in line
    assert "for want of room in the accept queue, 2 waiting of 1" in line


def test_on_the_node_itself(scene: Scene) -> None:
    pod = scene.pods()[0]
    name = f"{scene.namespace}/{pod['name']}"
    command = [
        "env", "--default-signal=INT", sys.executable, "-m", "tproxy_node", "debug", "trace",
        "--socket", str(scene.lab.layout.daemon_socket(pod["node"])), "--pod", name, "--port", str(PORT),
    ]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(), start_new_session=True
    )
    trace = Following(process)
    try:
        trace.until("LOCAL")
        scene.lab.exec("user", "curl", "-sg", f"http://{scene.address()}:{PORT}/")
        trace.until(f"{scene.address()}:{PORT} ", "LAST_ACK -> CLOSE")
        assert " s: " in trace.interrupt()
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate(timeout=30)
