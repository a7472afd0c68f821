"""Health checks of an intercepted Deployment, as the lab's kubelet makes them every second."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.laptop import Laptop, each_backend, local_app
from tproxy.lab.layout import NETNS

HELLO = Path(__file__).with_name("hello.py")
GRPC = Path(__file__).parents[1] / "kernel" / "grpc_health.py"
CERTIFICATE = Path("/tmp/tproxy-test-probes.pem")  # noqa: S108
PERIODS_SECONDS = 5.0
CHECKS = {
    "http": ({"httpGet": {"path": "/ready", "port": "http"}}, {"httpGet": {"path": "/alive", "port": "http"}}),
    "tcp": ({"tcpSocket": {"port": "http"}},) * 2,
    "https": (
        {"httpGet": {"path": "/ready", "port": "http", "scheme": "HTTPS"}},
        {"httpGet": {"path": "/alive", "port": "http", "scheme": "HTTPS"}},
    ),
    "grpc": ({"grpc": {"port": 8080}},) * 2,
}
BANNER = """
import socketserver
class Banner(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"laptop speaks first\\n")
socketserver.ThreadingTCPServer.allow_reuse_address = True
socketserver.ThreadingTCPServer(("127.0.0.1", 3001), Banner).serve_forever()
"""


def server(check: str, name: str, port: int) -> str:
    """The arguments of an app that such checks can be made of."""
    if check == "grpc":
        return f"{GRPC} serve {name} {port}"
    return f"{HELLO} --port {port}" + (f" --tls {CERTIFICATE}" if check == "https" else "")


def deployment(check: str) -> str:
    """A manifest of `web` with such checks; its app listens while the file /tmp/<pod>.off does not exist."""
    timing = {"periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 1}
    readiness, liveness = ({**probe, **timing} for probe in CHECKS[check])
    script = f"while :; do [ -e /tmp/$POD.off ] && sleep 0.1 || python {server(check, '$POD', 8080)}; done"
    container = {
        "name": "web",
        "command": ["sh", "-c", script],
        "env": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": readiness,
        "livenessProbe": {**liveness, "failureThreshold": 3},
    }
    labels = {"app": "web"}
    spec = {
        "replicas": 1,
        "selector": {"matchLabels": labels},
        "template": {
            "metadata": {"labels": labels},
            "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]},
        },
    }
    return json.dumps({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec})


class Scene(Laptop):
    """One pod of `web`, and a local app."""

    app: Any
    check: str

    @property
    def pod(self) -> Any:
        return self.pods()[0]

    def from_node(self, *options: str) -> tuple[str, float]:
        """What a client with the node's address gets, and how long that took in seconds."""
        pod = self.pod
        if self.check == "grpc":
            ask = ("python", str(GRPC), "ask", f"{pod['addresses'][0]}:8080", "web/1")
            text, _, seconds = self.lab.exec(f"node/{pod['node']}", *ask).stdout.partition(" ")
            return f"{text} ", float(seconds)
        timing = ("-w", "%{time_total}", "-o", "-", "-s", "--http0.9", "--max-time", "5")
        url = f"{'https' if self.check == 'https' else 'http'}://web.test:8080/"
        options = ("-k", "--resolve", f"web.test:8080:{pod['addresses'][0]}", *options)
        answer = self.lab.exec(f"node/{pod['node']}", "curl", *timing, *options, url, check=False).stdout
        text, _, seconds = answer.rpartition("\n")
        return text, float(seconds)

    def app_processes(self) -> list[int]:
        """The local app's, in this lab's laptop and no other."""
        found = []
        place = os.stat(NETNS / self.lab.layout.netns("laptop"))
        for entry in Path("/proc").iterdir():
            try:
                if not entry.name.isdigit() or not os.path.samestat(os.stat(entry / "ns" / "net"), place):
                    continue
                line = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            apps = {str(HELLO).encode(), str(GRPC).encode()}
            if apps.intersection(line) and b"3000" in line and line[0].endswith(b"python"):
                found.append(int(entry.name))
        return found

    def stays_ready(self, seconds: float = PERIODS_SECONDS) -> None:
        """Ready, and never restarted, at every look."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert (self.pod["ready"], self.pod["restarts"]) == (True, 0)
            time.sleep(0.1)  # what must not happen can only be waited for


def is_app(pid: int) -> bool:
    """Whether this process of the pod is the app, or what starts it."""
    line = Path(f"/proc/{pid}/cmdline").read_text()
    return str(HELLO) in line or str(GRPC) in line


def make_certificate() -> None:
    """One for both servers; nobody verifies it."""
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=web.test")
    out = ("-keyout", str(CERTIFICATE), "-out", str(CERTIFICATE))
    subprocess.run(["openssl", "req", "-x509", *key, *out], check=True, capture_output=True)
    CERTIFICATE.chmod(0o644)


@pytest.fixture(params=CHECKS)
def check(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def scene(where: Any, namespace: str, check: str) -> Iterator[Scene]:
    one = Scene(where, namespace)
    one.check = check
    if check == "https":
        make_certificate()

    def serves() -> bool:
        # Whatever it speaks: 52 and 56 are answers that curl did not expect.
        scheme = "https" if check == "https" else "http"
        done = where.exec(
            "laptop", "curl", "-sko", "/dev/null", "--http0.9", f"{scheme}://127.0.0.1:3000/", check=False
        )
        return bool(done.returncode in (0, 1, 8, 52, 56))

    one.app = local_app(where, server(check, "laptop", 3000).split(), serves)
    try:
        where.apply(deployment(check), namespace)
        where.ready_pod(namespace, "web-")
        yield one
    finally:
        for pid in one.app_processes():
            os.kill(pid, signal.SIGCONT)
        one.tproxy("quit", check=False)
        one.app.terminate()
        one.app.wait(10)


@each_backend
def test_a_local_app_at_a_breakpoint_restarts_no_pod(scene: Scene) -> None:
    scene.intercept(port="3000:8080")
    text, seconds = scene.from_node()
    assert text.startswith("laptop ")
    assert seconds < 1
    stopped = scene.app_processes()
    assert stopped
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    scene.stays_ready()
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    assert scene.from_node()[0].startswith("laptop ")
    if scene.check in ("http", "https"):
        assert scene.lab.exec("laptop", "curl", "-sk", f"{scene.check}://127.0.0.1:3000/probes").stdout == ""


def test_without_a_local_app_no_pod_is_restarted(scene: Scene) -> None:
    scene.intercept(port="3999:8080")
    scene.stays_ready()


@each_backend
def test_the_apps_own_death_shows(scene: Scene) -> None:
    scene.intercept(port="3000:8080")
    pod = scene.pod
    off = Path(f"/tmp/{pod['name']}.off")  # noqa: S108
    off.touch()
    try:
        app = next(pid for pid in pod["pids"] if is_app(pid))
        os.kill(app, signal.SIGKILL)
        scene.lab.wait(lambda: not scene.pod["ready"], "a pod that is not ready")
        scene.lab.wait(lambda: scene.pod["restarts"] > 0, "a restart")
    finally:
        off.unlink()
    scene.lab.wait(lambda: scene.pod["ready"], "the pod to be ready again")


@pytest.mark.parametrize("check", ["http"])
def test_checks_by_the_laptop_if_so_chosen(scene: Scene) -> None:
    scene.intercept("--probes", "laptop", port="3000:8080")

    def asked() -> bool:
        return "kube-probe/" in scene.lab.exec("laptop", "curl", "-s", "http://127.0.0.1:3000/probes").stdout

    scene.lab.wait(asked, "checks at the laptop")
    stopped = scene.app_processes()
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    scene.lab.wait(lambda: not scene.pod["ready"], "a pod that is not ready")


@each_backend
@pytest.mark.parametrize("check", ["http"])
def test_who_speaks_first_is_heard_at_once_behind_a_nodes_address(scene: Scene) -> None:
    app = scene.lab.start("exec", "laptop", "--", "python", "-c", BANNER)
    try:
        scene.intercept(port="3001:8080")

        def greeted() -> bool:
            ask = "import socket,sys,time; b=time.monotonic(); s=socket.create_connection((sys.argv[1],8080),5)"
            ask += "; print(s.recv(99).decode().strip(), time.monotonic()-b)"
            node, address = scene.pod["node"], scene.pod["addresses"][0]
            words = scene.lab.exec(f"node/{node}", "python", "-c", ask, address, check=False).stdout.split()
            return words[:3] == ["laptop", "speaks", "first"] and float(words[3]) < 0.5

        scene.lab.wait(greeted, "the greeting")
        # A check that is slower to speak than the laptop gets the greeting, so not every single one succeeds.
        for _ in range(3):
            scene.lab.wait(lambda: scene.pod["ready"], "a pod that is ready")
            assert greeted() or greeted()
        assert scene.pod["restarts"] == 0
    finally:
        app.terminate()
        app.wait(10)
