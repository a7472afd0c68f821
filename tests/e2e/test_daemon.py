"""The node daemon itself, with the chart's rights and no others, at a real API server."""

import asyncio
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.chart.rights import NODE
from tests.e2e.chart import Release
from tests.e2e.control_plane import ROOT, ControlPlane, free_ports
from tests.unit.model import objects
from tproxy.kube.api import ApiCluster
from tproxy.kube.config import load
from tproxy.kube.port import INTERCEPTS, SESSIONS
from tproxy.model.intercept import Intercept, Target
from tproxy.model.session import Session

NODE_NAME = "e2e-node"
SECONDS = 60.0


@pytest.fixture
def daemon(plane: ControlPlane, release: Release, tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """Its health port and its log. It finds no pod of its own, so it steers nothing on this machine."""
    health, grpc = free_ports(2)
    log = tmp_path / "daemon.log"
    command = ["/usr/bin/setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "tproxy_node", f"--node={NODE_NAME}"]
    command += [f"--kubeconfig={plane.kubeconfig_of(NODE)}", f"--http=127.0.0.1:{health}", f"--grpc=127.0.0.1:{grpc}"]
    path = os.pathsep.join(str(ROOT / part) for part in ("", "node-daemon"))
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, "PYTHONPATH": path})
    try:
        yield health, log
        process.terminate()
        assert process.wait(15) == 0
    finally:
        process.kill()
        process.wait()
        for what in (f"node/{NODE_NAME}", "pod/web", "session/laptop-e2e"):
            plane.kubectl("delete", what, "-n", "shop", "--ignore-not-found", "--force", "--grace-period=0")


def eventually(what: str, check: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + SECONDS
    while not check():
        assert time.monotonic() < deadline, f"{what}: {log.read_text()[-2000:]}"
        time.sleep(0.1)


def is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_its_rights_are_enough(plane: ControlPlane, daemon: tuple[int, Path]) -> None:
    port, log = daemon
    eventually("ready", lambda: is_ready(port), log)
    manifest = [
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE_NAME}},
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "web", "namespace": "shop", "labels": {"app": "web"}},
            "spec": {
                "nodeName": NODE_NAME,
                "hostNetwork": True,
                "containers": [{"name": "web", "image": "none", "ports": [{"containerPort": 80}]}],
            },
        },
    ]
    plane.wait("an account", "get", "serviceaccount", "-n", "shop", "-o", "name", until="serviceaccount/default")
    made = plane.kubectl("create", "-f", "-", stdin=yaml.safe_dump_all(manifest))
    assert made.returncode == 0, made.stderr
    running = '{"status": {"phase": "Running", "podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}}'
    patch = ("patch", "pod", "web", "-n", "shop", "--subresource=status", "--type=merge", "-p", running)
    assert plane.kubectl(*patch).returncode == 0
    asyncio.run(intercept(plane))
    state = ("get", "intercept", "web-e2e", "-n", "shop", "-o", f"jsonpath={{.status.nodes.{NODE_NAME}.reason}}")
    # It sees the pod, its owner's Session and the Intercept, and says what it makes of them.
    plane.wait("status", *state, until="HostNetwork")
    said = log.read_text()
    for word in ("may not", "forbidden", "Traceback"):
        assert word not in said, said[-2000:]


async def intercept(plane: ControlPlane) -> None:
    dora = ApiCluster(load(str(plane.kubeconfig_of("dora")), None))
    try:
        wanted = objects.session(name="laptop-e2e", user="dora")
        session = Session.from_object(await dora.create(SESSIONS, wanted.to_object(), "shop"))
        target = Target("Pod", "web")
        one: Intercept = objects.intercept("e2e", session=session.name, session_uid=session.uid, target=target)
        await dora.create(INTERCEPTS, one.to_object(), "shop")
    finally:
        await dora.close()
