"""UDP intercepts end to end: `dig` asks a name server in the cluster, and the laptop answers."""

import contextlib
import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dns.message
import pytest

from tests.kernel.namespaces import Namespace, family_of
from tests.lab.laptop import FALLBACK_SECONDS, Laptop, network

SERVER = Path(__file__).with_name("names.py")
PORT, LOCAL_PORT = 5300, 5301

MANIFEST = f"""
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 1
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        command: [python, {json.dumps(str(SERVER))}, --port, "{PORT}"]
        env: [{{name: POD, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}]
        ports: [{{name: dns, containerPort: {PORT}, protocol: UDP}}]
"""


class Scene(Laptop):
    """One name server, and another one on the laptop."""

    app: Any
    outside: Namespace

    def address(self, family: int = 0) -> str:
        return str(self.pods()[0]["addresses"][family])

    def dig(self, name: str = "who", family: int = 0) -> str:
        """Who answers, or what dig has to say."""
        at = f"@{self.address(family)}"
        options = ("-p", str(PORT), at, "TXT", name, "+tries=1", "+time=2", "+bufsize=4096", "+ignore")
        done = self.lab.exec("user", "dig", "+short", *options, check=False)
        who = done.stdout.split('"')[1] if '"' in done.stdout else done.stdout + done.stderr
        return "laptop" if who == "laptop" else "pod" if who.startswith("web-") else who

    def start_app(self) -> None:
        command = ("env", "POD=laptop", "python", str(SERVER), "--port", str(LOCAL_PORT))
        self.app = self.lab.start("exec", "laptop", "--", *command)

        def answers() -> bool:
            asked = ("dig", "+short", "-p", str(LOCAL_PORT), "@127.0.0.1", "TXT", "who", "+tries=1", "+time=1")
            return "laptop" in self.lab.exec("laptop", *asked, check=False).stdout

        self.lab.wait(answers, "the local app")

    def stop_app(self) -> None:
        self.app.terminate()
        self.app.wait(10)

    @contextlib.contextmanager
    def intercepted(self, port: str = f"{LOCAL_PORT}:{PORT}/udp") -> Iterator[Any]:
        try:
            yield self.intercept(port=port)
        finally:
            self.tproxy("leave", "--all", "-n", self.namespace, check=False)


@pytest.fixture
def scene(lab: Any, namespace: str) -> Iterator[Scene]:
    lab.apply(MANIFEST, namespace)
    one = Scene(lab, namespace)
    one.outside = network(lab.layout.netns("user"))
    one.start_app()
    try:
        lab.wait(lambda: one.dig() == "pod", "the cluster's name server")
        yield one
    finally:
        one.tproxy("quit", check=False)
        one.stop_app()
        one.outside.netns.close()


def test_from_intercept_to_leave(scene: Scene) -> None:
    with scene.intercepted() as said:
        assert said["ports"] == [{"local": LOCAL_PORT, "remote": PORT, "protocol": "UDP"}]
        for family in (0, 1):
            assert scene.dig(family=family) == "laptop"
            # More than a packet holds, so that it comes in fragments.
            assert scene.dig("3500.size", family) == "laptop"
        [listed] = scene.json("list", "-n", scene.namespace)["intercepts"]
        assert listed["ports"] == [{"local": LOCAL_PORT, "remote": PORT, "protocol": "UDP"}]
        assert f"{PORT}/udp" in scene.tproxy("list", "-n", scene.namespace).stdout
        scene.leave()
        assert scene.dig() == "pod"


def test_the_ports_name_says_that_it_is_udp(scene: Scene) -> None:
    with scene.intercepted(f"{LOCAL_PORT}:dns") as said:
        assert said["ports"][0]["protocol"] == "UDP"
        assert scene.dig() == "laptop"


@pytest.mark.parametrize("family", [0, 1])
def test_nine_thousand_bytes(scene: Scene, family: int) -> None:
    host = scene.address(family)
    with scene.intercepted(), scene.outside.netns.socket(family_of(host), socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.connect((host, PORT))
        client.send(dns.message.make_query("8800.size", "TXT").to_wire())
        answer = client.recv(65535)
        assert len(answer) > 8800
        assert b"laptop" in answer


def test_without_a_local_app_clients_are_refused(scene: Scene) -> None:
    with scene.intercepted():
        scene.stop_app()
        assert "refused" in scene.dig()
        scene.start_app()
        assert scene.dig() == "laptop"


def test_a_silent_laptop_gives_the_port_back(scene: Scene) -> None:
    with scene.intercepted():
        assert scene.dig() == "laptop"
        os.kill(scene.pid(), signal.SIGSTOP)
        try:
            scene.lab.wait(lambda: scene.dig() == "pod", "the pod again", FALLBACK_SECONDS + 2)
        finally:
            os.kill(scene.pid(), signal.SIGCONT)
        scene.lab.wait(lambda: scene.dig() == "laptop", "the laptop again")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("-p", f"{LOCAL_PORT}:53"), "there is no port 53; ports there are: 5300/udp (dns)"),
        (("-p", f"{LOCAL_PORT}:dns", "--http-header", "x-user=ada"), "datagrams have no requests"),
        (("-p", f"{LOCAL_PORT}:dns", "--proxy-protocol", "v2"), "is for TCP"),
        (("-p", f"{LOCAL_PORT}:dns/sctp"), "is not a port mapping"),
    ],
)
def test_what_makes_no_sense_is_said(scene: Scene, arguments: tuple[str, ...], sentence: str) -> None:
    done = scene.tproxy("intercept", "web", "-n", scene.namespace, *arguments, check=False)
    assert done.returncode != 0
    assert sentence in done.stderr
    assert "hint: " in done.stderr
