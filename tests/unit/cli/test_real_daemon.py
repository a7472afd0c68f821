"""The commands with the real daemon: started on demand, hung, killed, told to quit."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tproxy_cli import client

from tests.unit.cli.api_server import api_server, kubeconfig
from tests.unit.cli.fakes import Outcome, wait_for
from tproxy.kube.port import DEPLOYMENTS, NAMESPACES, PODS
from tproxy.lab.api.resources import builtin_kinds, custom_kinds
from tproxy.lab.api.store import Store

Tproxy = Callable[..., Outcome]
Json = dict[str, Any]

WORKLOAD: Json = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "web", "namespace": "shop"},
    "spec": {
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "web", "ports": [{"name": "http", "containerPort": 8080}]}]},
        },
    },
}


@pytest.fixture(autouse=True)
def imports(monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon is a process of its own and has to find our packages."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))


@pytest.fixture
def tproxy() -> Iterator[Tproxy]:
    """Run one command as a process, as a shell does; the daemon that it started ends with the test."""

    def run(*args: str) -> Outcome:
        command = [sys.executable, "-c", "from tproxy_cli.main import main; main()", *args]
        got = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return Outcome(got.returncode, got.stdout, got.stderr)

    yield run
    if (pid := daemon_pid()) is not None:
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not client._lock_held())


def daemon_pid() -> int | None:
    """The daemon's process."""
    try:
        with client._connect() as connection:
            return client.peer_pid(connection)
    except client.NotRunningError:
        return None


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cluster with a Deployment and without node daemons, of which KUBECONFIG tells."""

    def fill(store: Store) -> None:
        store.create(NAMESPACES, {"metadata": {"name": "shop"}})
        store.create(DEPLOYMENTS, WORKLOAD, "shop")
        pod: Json = WORKLOAD["spec"]["template"] | {"metadata": {"name": "web-0", "labels": {"app": "web"}}}
        owner = store.get(DEPLOYMENTS, "web", "shop")["metadata"]["uid"]
        pod["metadata"]["ownerReferences"] = [
            {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": owner, "controller": True}
        ]
        pod["spec"]["nodeName"] = "node1"
        store.create(PODS, pod, "shop")
        store.patch(PODS, "web-0", {"status": {"phase": "Running", "podIP": "10.244.1.9"}}, "shop", "status")

    with api_server([*builtin_kinds(), *custom_kinds()], fill) as server:
        monkeypatch.setenv("KUBECONFIG", kubeconfig(tmp_path / "config", server, "admin"))
        yield


def test_the_daemon_lives_from_the_first_command_to_quit(tproxy: Tproxy, cluster: None) -> None:
    first = tproxy("list")
    assert (first.code, first.out) == (0, "")
    assert first.err == (
        "starting the tproxy daemon\nno intercepts; start one with `tproxy intercept WORKLOAD --port PORT`\n"
    )
    status = json.loads(tproxy("status", "-o", "json").out)
    assert status["daemon"]["state"] == "running"
    assert status["daemon"]["pid"] == daemon_pid()
    assert tproxy("version").out == "NAME     VERSION\nclient   0.1.0\ndaemon   0.1.0\n"
    assert tproxy("quit").out == "the tproxy daemon has stopped\n"
    assert not client._lock_held()
    assert tproxy("quit").out == "the tproxy daemon is not running\n"


def test_the_shell_that_started_the_daemon_chooses_no_cluster_for_others(
    tproxy: Tproxy, cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tproxy("list").code == 0
    monkeypatch.delenv("KUBECONFIG")
    got = tproxy("list")
    assert got.code == 3
    assert got.err.startswith("error: no cluster is configured\n")


def test_closed_standard_streams(cluster: None, tproxy: Tproxy) -> None:
    command = [sys.executable, "-c", "from tproxy_cli.main import main; main()", "list"]
    for redirections, said in ((">&-", "no intercepts"), ("2>&-", ""), ("<&-", "no intercepts"), ("<&- >&- 2>&-", "")):
        line = f'"$@" {redirections}'
        got = subprocess.run(["sh", "-c", line, "sh", *command], capture_output=True, text=True, timeout=60)
        assert (got.returncode, got.stdout) == (0, "")
        assert said in got.stderr
        assert "Traceback" not in got.stderr
    assert tproxy("quit").code == 0


def test_a_full_disk_for_stdout(tproxy: Tproxy, cluster: None) -> None:
    for args in ("--help", "status", "version"):
        command = [sys.executable, "-c", "from tproxy_cli.main import main; main()", args]
        with open("/dev/full", "w") as full:
            got = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
        assert got.returncode == 1
        assert got.stderr.startswith("error: cannot write the result: No space left on device\n"), got.stderr


def test_a_killed_daemon_leaves_a_socket_that_the_next_one_replaces(tproxy: Tproxy, cluster: None) -> None:
    assert tproxy("list").code == 0
    pid = daemon_pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not client._lock_held())
    assert tproxy("status").out == "daemon: not running; it starts when it is needed\n"
    assert tproxy("list").code == 0
    assert daemon_pid() not in (None, pid)


def test_a_stopped_daemon_is_named_with_what_to_do(tproxy: Tproxy, cluster: None) -> None:
    assert tproxy("list").code == 0
    pid = daemon_pid()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor() as pool:
        for got in pool.map(tproxy, ("list", "status", "quit")):
            assert (got.code, got.out) == (1, "")
            assert got.err == (
                f"error: the tproxy daemon (process {pid}) has not answered for 5 s\n"
                "\n"
                f"hint: end it with `kill -9 {pid}` (the pods' own apps take over), then run the command again\n"
            )


def test_commands_at_the_same_time_share_one_daemon(cluster: None, tproxy: Tproxy) -> None:
    command = [sys.executable, "-c", "from tproxy_cli.main import main; main()", "list"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(4)]
    errors = [process.communicate(timeout=60)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, errors


def test_what_the_daemon_refuses_names_what_there_is(tproxy: Tproxy, cluster: None) -> None:
    for args, code, word in (
        (["intercept", "wbe", "-p", "3000"], 2, "web"),
        (["intercept", "web", "-p", "3000:9090"], 2, "8080"),
        (["intercept", "web", "-p", "3000:grpc"], 2, "8080"),
        (["intercept", "web"], 2, "8080 (http)"),
        (["intercept", "web", "-p", "3000"], 3, "node daemon"),
        (["list", "--context", "prod"], 3, "lab"),
        (["leave", "web"], 2, "web"),
    ):
        got = tproxy(*args)
        assert (got.code, got.out) == (code, ""), args
        error, hint = got.err.split("error: ")[1].split("\n\nhint: ")
        assert word in error + hint
        assert "Traceback" not in got.err
