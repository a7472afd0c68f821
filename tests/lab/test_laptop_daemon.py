"""The laptop daemon in the lab: a person at the laptop intercepts, the outside user sees it, and things go wrong."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tproxy_cli.client import ANOTHER_RUNS

from tests.lab.laptop import FALLBACK_SECONDS, Laptop, local_app
from tproxy.kube.port import DEPLOYMENTS, INTERCEPTS, SESSIONS


@pytest.fixture
def laptop(lab: Any, namespace: str) -> Iterator[Laptop]:
    """A laptop without a daemon, and with a local app."""
    one = Laptop(lab, namespace)

    def serves() -> bool:
        return bool(lab.exec("laptop", "curl", "-s", "http://127.0.0.1:3000/", check=False).returncode == 0)

    app = local_app(lab, [str(Path(__file__).with_name("hello.py")), "--port", "3000"], serves)
    try:
        lab.apply(lab.server("web", replicas=2), namespace)
        yield one
    finally:
        one.tproxy("quit", check=False)
        app.terminate()
        app.wait(10)


def test_intercept_and_back(laptop: Laptop) -> None:
    assert laptop.seen() == "pod"
    began = time.monotonic()
    result = laptop.intercept()
    assert time.monotonic() - began < 5
    assert [pod["state"] for pod in result["pods"]] == ["Ready", "Ready"]
    assert {laptop.seen() for _ in range(6)} == {"laptop"}
    [listed] = laptop.json("list", "-n", laptop.namespace)["intercepts"]
    assert (listed["mine"], listed["state"], listed["pods"]["ready"]) == (True, "Ready", 2)
    [cluster] = laptop.json("status")["clusters"]
    assert {node["state"] for node in cluster["nodes"]} == {"connected"}
    laptop.tproxy("leave", "web", "-n", laptop.namespace)
    assert {laptop.seen() for _ in range(6)} == {"pod"}, "from the first request after leave on"
    assert laptop.lab.client.list(SESSIONS, laptop.namespace) == []


def test_new_pods_are_intercepted_without_a_command(laptop: Laptop) -> None:
    laptop.intercept()
    laptop.lab.client.patch(DEPLOYMENTS, "web", {"spec": {"replicas": 4}}, laptop.namespace)
    laptop.lab.wait(
        lambda: laptop.json("list", "-n", laptop.namespace)["intercepts"][0]["pods"] == {"ready": 4, "total": 4},
        "four steered pods",
    )
    assert {laptop.seen() for _ in range(8)} == {"laptop"}


def test_a_killed_daemon_gives_the_traffic_back_and_the_next_one_resumes(laptop: Laptop) -> None:
    laptop.intercept()
    before = laptop.pid()
    os.kill(before, signal.SIGKILL)
    assert laptop.wait_seen("pod") < FALLBACK_SECONDS
    assert laptop.tproxy("status").stdout.startswith("daemon: not running")
    laptop.tproxy("list")
    assert laptop.pid() != before
    laptop.wait_seen("laptop")
    laptop.tproxy("leave", "--all", "-n", laptop.namespace)
    assert laptop.seen() == "pod"


def test_a_stopped_daemon_gives_the_traffic_back_until_it_goes_on(laptop: Laptop) -> None:
    laptop.intercept()
    os.kill(laptop.pid(), signal.SIGSTOP)
    try:
        assert laptop.wait_seen("pod") < FALLBACK_SECONDS
    finally:
        os.kill(laptop.pid(), signal.SIGCONT)
    laptop.wait_seen("laptop")


def test_a_terminated_daemon_gives_the_traffic_back_at_once(laptop: Laptop) -> None:
    laptop.intercept()
    os.kill(laptop.pid(), signal.SIGTERM)
    assert laptop.wait_seen("pod") < 2
    assert len(laptop.lab.client.list(INTERCEPTS, laptop.namespace)) == 1, "for the next daemon to resume"


def test_quit_gives_the_traffic_back_at_once(laptop: Laptop) -> None:
    laptop.intercept()
    laptop.tproxy("quit")
    assert laptop.seen() == "pod"
    assert laptop.lab.client.list(INTERCEPTS, laptop.namespace) == []
    assert laptop.lab.client.list(SESSIONS, laptop.namespace) == []


def test_a_killed_node_daemon_is_connected_to_again(laptop: Laptop) -> None:
    laptop.intercept()
    daemons = [node["daemon"]["pid"] for node in laptop.lab.status()["nodes"]]
    for pid in daemons:
        os.kill(pid, signal.SIGKILL)
    laptop.wait_seen("pod", 2)
    laptop.wait_seen("laptop", 30)
    assert laptop.tproxy("leave", "web", "-n", laptop.namespace).returncode == 0
    assert {laptop.seen() for _ in range(4)} == {"pod"}


def test_an_administrator_deletes_the_intercept(laptop: Laptop) -> None:
    result = laptop.intercept()
    laptop.lab.client.delete(INTERCEPTS, result["name"], laptop.namespace)
    laptop.wait_seen("pod", 2)

    def shown() -> list[str]:
        return [one["state"] for cluster in laptop.json("status")["clusters"] for one in cluster["intercepts"]]

    laptop.lab.wait(lambda: shown() == ["Lost"], "status to say so")
    assert laptop.intercept()["created"]
    assert laptop.seen() == "laptop"


def test_a_second_daemon_ends_with_a_sentence(laptop: Laptop) -> None:
    laptop.intercept()
    second = laptop.lab.exec("laptop", "python", "-m", "tproxy_cli.daemon", check=False)
    assert second.returncode == ANOTHER_RUNS
    assert f"process {laptop.pid()}" in second.stderr
    assert "tproxy quit" in second.stderr
    assert "Traceback" not in second.stderr
    assert laptop.seen() == "laptop"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("intercept", "wbe", "-p", "3000"), 2, ("wbe", "`web`")),
        (("intercept", "web", "-p", "3000:99"), 2, ("99", "8080")),
        (("leave", "nothing"), 2, ("nothing",)),
        (("list", "--context", "nowhere"), 3, ("nowhere", "`lab`")),
        (("list", "--kubeconfig", "/nowhere"), 3, ("/nowhere",)),
    ],
)
def test_wrong_inputs_get_a_sentence(laptop: Laptop, arguments: tuple[str, ...], code: int, words: list[str]) -> None:
    done = laptop.tproxy(*arguments, "-n", laptop.namespace, check=False)
    assert done.returncode == code
    assert all(word in done.stderr for word in words)
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr
