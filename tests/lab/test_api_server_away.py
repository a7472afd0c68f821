"""The API server dies and comes back: who goes on, who falls back to the app, and what is known afterwards."""

import contextlib
import time
from collections.abc import Iterator

import pytest

from tests.lab.laptop import FALLBACK_SECONDS
from tests.lab.scene import Scene
from tproxy.kube.port import INTERCEPTS
from tproxy.lab.daemons import DIRECT_PORT

AWAY_SECONDS = 8.0
"""Longer than a tunnel may be silent before it counts as dead."""

DIRECT = ("dport", "=", f":{DIRECT_PORT}")
BACK_SECONDS = 5.0
"""How long steering may take to return once the API server has."""


@pytest.fixture(scope="module", autouse=True)
def as_before(scene: Scene) -> Iterator[None]:
    """In the end others find an API server, and node daemons that follow it."""
    yield
    scene.lab.client.tell_api_server("start")
    scene.intercept("--timeout", "30")
    scene.tproxy("quit")


@pytest.fixture(autouse=True)
def by_port_forward_again(scene: Scene) -> Iterator[None]:
    yield
    scene.tproxy("quit", check=False)


@contextlib.contextmanager
def away(scene: Scene) -> Iterator[None]:
    """The API server is as killed within."""
    scene.lab.client.tell_api_server("stop")
    try:
        refused = scene.lab.exec("laptop", "kubectl", "get", "pods", check=False)
        assert "refused" in refused.stderr, refused.stdout
        yield
    finally:
        scene.lab.client.tell_api_server("start")


def answers(scene: Scene, seconds: float) -> list[str]:
    """Who answers the outside user, by the Service's name, all of that time: fifty requests at a time."""
    seen: list[str] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        url = f"{scene.url()}[1-50]"
        asked = scene.lab.exec("user", "curl", "-s", "-w", "\\n", "--max-time", "5", url, check=False)
        assert asked.returncode == 0, asked.stderr
        seen += ["laptop" if line.startswith("laptop") else line for line in asked.stdout.split() if line]
    return seen


def test_direct_intercepts_go_on_undisturbed(scene: Scene) -> None:
    scene.intercept("--transport", "direct")
    with away(scene):
        seen = answers(scene, AWAY_SECONDS)
        [cluster] = scene.json("status")["clusters"]
        assert {node["state"] for node in cluster["nodes"]} == {"connected"}
    assert len(seen) > 50
    assert set(seen) == {"laptop"}
    assert set(answers(scene, 1)) == {"laptop"}
    scene.leave()
    scene.wait_seen("pod")


def test_direct_tunnels_that_break_meanwhile_come_back_without_it(scene: Scene) -> None:
    """Where nodes are, and by which certificate, is remembered."""
    scene.intercept("--transport", "direct")
    with away(scene):
        before = ways(scene)
        assert len(before) == 2
        scene.lab.exec("laptop", "ss", "-K", *DIRECT)
        scene.lab.wait(lambda: len(ways(scene) - before) == 2, "new tunnels", BACK_SECONDS)
        scene.wait_seen("laptop", BACK_SECONDS)
    scene.leave()


def test_with_port_forwards_the_app_serves_until_it_is_back(scene: Scene) -> None:
    scene.intercept()
    scene.wait_seen("laptop")
    with away(scene):
        scene.wait_seen("pod", FALLBACK_SECONDS)
        assert "laptop" not in answers(scene, 1)
        [cluster] = scene.json("status")["clusters"]
        errors = {node["error"] for node in cluster["nodes"]}
        assert any("cannot reach the API server" in error for error in errors), errors
    scene.wait_seen("laptop", BACK_SECONDS)
    scene.leave()
    scene.wait_seen("pod")


def test_what_changed_meanwhile_is_heard_of(scene: Scene) -> None:
    """Somebody deletes the intercept; watches go on from where they were."""
    made = scene.intercept("--transport", "direct")
    with away(scene):
        scene.lab.client.delete(INTERCEPTS, made["name"], scene.namespace)
        assert scene.seen() == "laptop", "nobody has heard of it yet"
    scene.wait_seen("pod", 10)
    scene.lab.wait(lambda: listed(scene).get(made["name"]) == "Lost", "the laptop to hear of it")


@pytest.mark.parametrize("restarted", [False, True], ids=["while it serves", "while it is away"])
def test_watches_whose_version_has_expired_begin_afresh(scene: Scene, restarted: bool) -> None:
    """The node daemons' and the laptop's: a pod that starts afterwards is intercepted."""
    made = scene.intercept("--transport", "direct")
    with away(scene) if restarted else contextlib.nullcontext():
        scene.lab.client.tell_api_server("forget")
    try:
        scale(scene, 3)
        scene.lab.wait(lambda: ready(scene, made["name"]) == (3, 3), "the third pod", 20)
    finally:
        scale(scene, 2)
    scene.lab.wait(lambda: ready(scene, made["name"]) == (2, 2), "two pods again", 20)
    scene.lab.wait(lambda: len(scene.pods()) == 2, "the third pod to be gone")
    scene.leave()


def scale(scene: Scene, replicas: int) -> None:
    words = ("scale", "deployment/web", f"--replicas={replicas}", "-n", scene.namespace)
    scene.lab.exec("laptop", "kubectl", *words)


def ready(scene: Scene, name: str) -> tuple[int, int]:
    found = next(one for one in scene.json("list", "-n", scene.namespace)["intercepts"] if one["name"] == name)
    return found["pods"]["ready"], found["pods"]["total"]


def listed(scene: Scene) -> dict[str, str]:
    return {one["name"]: one["state"] for one in scene.json("list", "-n", scene.namespace)["intercepts"]}


def ways(scene: Scene) -> set[str]:
    """The laptop's connections to node daemons' own ports."""
    return set(scene.lab.exec("laptop", "ss", "-Htn", "state", "established", *DIRECT).stdout.splitlines())
