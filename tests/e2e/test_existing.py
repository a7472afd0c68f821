"""The main job on a cluster that is there already ($KUBECONFIG). Only this file is run there; see README.md."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.e2e.existing import EDGY_CORP, SYSTEM, Existing, RefusedError
from tests.e2e.person import wait

SERVICE = "dataprocessingservice"


@pytest.fixture(scope="module")
def existing() -> Iterator[Existing]:
    try:
        with Existing() as one:
            yield one
    except RefusedError as error:
        # One line, not a traceback for each test.
        pytest.exit(f"Refused: {error}", returncode=1)


@pytest.fixture
def unchanged(existing: Existing) -> Iterator[None]:
    """Nothing of the workload changes meanwhile."""
    pods, objects = existing.pods(), existing.objects()
    yield
    assert existing.pods() == pods
    assert existing.objects() == objects


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


@pytest.fixture
def local() -> Iterator[int]:
    """The port of the service on this machine, which says blue."""
    port = free_port()
    command = [sys.executable, EDGY_CORP / f"{SERVICE}.py", "--port", str(port)]
    with subprocess.Popen(command, env={**os.environ, "COLOR": "blue"}) as process:

        def up() -> bool:
            with socket.socket() as one:
                return one.connect_ex(("127.0.0.1", port)) == 0

        try:
            wait(up, "the app on this machine")
            yield port
        finally:
            process.kill()


def test_run_reaches_the_cluster_by_name(existing: Existing, unchanged: None) -> None:
    page = existing.tproxy("run", "-n", existing.namespace, "--", "curl", "-sS", "http://verylargejavaservice:8080/")
    assert '<strong id="color">green' in page


def test_global_and_personal(existing: Existing, unchanged: None, local: int) -> None:
    intercept = ("intercept", SERVICE, "-n", existing.namespace, "--port", f"{local}:3000")
    leave = ("leave", SERVICE, "-n", existing.namespace)
    existing.tproxy(*intercept)
    assert {existing.colour() for _ in range(4)} == {"blue"}
    existing.tproxy(*leave)
    assert {existing.colour() for _ in range(4)} == {"green"}
    existing.tproxy(*intercept, "--http-header", "x-user=ada")
    assert {existing.colour("x-user: ada") for _ in range(4)} == {"blue"}
    assert {existing.colour() for _ in range(4)} == {"green"}
    existing.tproxy(*leave)
    assert {existing.colour("x-user: ada") for _ in range(4)} == {"green"}


def test_helm_test_and_doctor(existing: Existing) -> None:
    assert "Phase:          Succeeded" in existing.helm("test", "tproxy")
    checks = json.loads(existing.tproxy("doctor", "-n", existing.namespace, "-o", "json"))["checks"]
    assert [check for check in checks if check["outcome"] == "fail"] == []
    ready = existing.kubectl("get", "daemonset", "tproxy-node", "-n", SYSTEM, "-o", "jsonpath={.status.numberReady}")
    assert int(ready) >= 1
