"""Pods come and go during an intercept: the new ones are steered without a command, the old ones keep nothing."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.kernel.namespaces import Namespace, run
from tests.lab.laptop import network
from tests.lab.scene import Scene
from tproxy.kube.port import DEPLOYMENTS, PODS


@pytest.fixture
def intercepted(scene: Scene) -> Iterator[Scene]:
    """During an intercept; afterwards the Deployment has two pods again."""
    with scene.intercepted():
        yield scene
    scale(scene, 2)
    scene.lab.wait(lambda: len(scene.pods()) == 2 and all(pod["ready"] for pod in scene.pods()), "two pods")


def scale(scene: Scene, replicas: int) -> None:
    scene.lab.client.patch(DEPLOYMENTS, "web", {"spec": {"replicas": replicas}}, scene.namespace)


def steered(scene: Scene) -> Any:
    """Names of the pods that the intercept has."""
    [one] = scene.json("list", "-n", scene.namespace)["intercepts"]
    return {pod["name"] for node in one["nodes"] for pod in node["pods"] if pod["state"] == "Ready"}


@contextlib.contextmanager
def kept_open(scene: Scene) -> Iterator[dict[str, Namespace]]:
    """The pods' networks, which then outlive their pods."""
    networks = {pod["name"]: network(pod["netns"]) for pod in scene.pods()}
    try:
        yield networks
    finally:
        for one in networks.values():
            one.netns.close()


def links_in(networks: dict[str, Namespace]) -> list[str]:
    """Which of these networks have a BPF link of anybody's."""
    links = run("bpftool", "link", "list")
    return [name for name, one in networks.items() if f"netns_ino {one.netns.id.inode} " in links]


def change_to(scene: Scene, gone: set[str], count: int) -> None:
    """Wait until `count` pods are steered, none of them one that should be `gone`, and all answer as the laptop."""

    def settled() -> bool:
        names = {pod["name"] for pod in scene.pods()}
        return len(names) == count and not names & gone and steered(scene) == names

    scene.lab.wait(settled, f"{count} steered pods without {gone}")
    for pod in scene.pods():
        assert scene.seen(url=f"http://{pod['addresses'][0]}:8080/") == "laptop"


def test_scaling_up_and_down(intercepted: Scene) -> None:
    with kept_open(intercepted):
        scale(intercepted, 4)
        change_to(intercepted, set(), 4)
    with kept_open(intercepted) as networks:
        assert sorted(links_in(networks)) == sorted(networks)
        scale(intercepted, 1)
        intercepted.lab.wait(lambda: len(intercepted.pods()) == 1, "one pod")
        [left] = intercepted.pods()
        change_to(intercepted, set(networks) - {left["name"]}, 1)
        assert links_in(networks) == [left["name"]]


def test_a_rollout(intercepted: Scene) -> None:
    with kept_open(intercepted) as networks:
        template = {"spec": {"template": {"metadata": {"annotations": {"rolled": "out"}}}}}
        intercepted.lab.client.patch(DEPLOYMENTS, "web", template, intercepted.namespace)
        change_to(intercepted, set(networks), 2)
        assert links_in(networks) == []


def test_a_deleted_pod(intercepted: Scene) -> None:
    with kept_open(intercepted) as networks:
        victim, other = sorted(networks)
        intercepted.lab.client.delete(PODS, victim, intercepted.namespace)
        change_to(intercepted, {victim}, 2)
        assert links_in(networks) == [other]
