"""What is not intercepted never meets our code, and what of ours is in the kernel carries our name."""

import asyncio
import json
import subprocess
from typing import Any

from tests.lab.asking import get
from tests.lab.scene import OTHER_PORT, Scene

FIGURES = (
    *(f'tproxy_kernel_lookups_total{{verdict="{verdict}"}}' for verdict in ("steered", "own", "lease_expired")),
    *(f'tproxy_connections_total{{outcome="{outcome}"}}' for outcome in ("laptop", "app_left", "app_no_tunnel")),
)


def bpftool(*arguments: str) -> Any:
    return json.loads(subprocess.check_output(["bpftool", "-j", *arguments]))


def test_other_pods_are_as_they_were(scene: Scene) -> None:
    [other] = scene.lab.pods(scene.namespace, "bystander-")
    with scene.inside(other) as inside:
        before = inside.state()
        with scene.intercepted():
            assert inside.state() == before
            assert not before["links"]


def test_other_ports_of_the_same_pod_are_the_apps_alone(scene: Scene) -> None:
    with scene.intercepted():
        node = scene.pods()[0]["node"]
        assert asyncio.run(get(scene.outside, scene.address())).who == "laptop"
        before = {name: scene.metric(node, name) for name in FIGURES}
        assert before[FIGURES[0]] > 0, "the figures are counted"
        for family in (0, 1):
            for _ in range(5):
                host = scene.address(family=family)
                assert asyncio.run(get(scene.outside, host, OTHER_PORT)).who == "pod"
        assert {name: scene.metric(node, name) for name in FIGURES} == before


def test_what_is_ours_in_the_kernel_carries_our_name(scene: Scene) -> None:
    pods = scene.pods()
    with scene.intercepted():
        for pod in pods:
            with scene.inside(pod) as inside:
                inode = inside.netns.id.inode
            [link] = [one for one in bpftool("link", "show") if one.get("netns_ino") == inode]
            assert link["attach_type"] == "sk_lookup"
            program = bpftool("prog", "show", "id", str(link["prog_id"]))
            names = [program["name"], *(bpftool("map", "show", "id", str(one))["name"] for one in program["map_ids"])]
            assert len(names) >= 5
            assert all(name.startswith("tproxy") for name in names), names
        said = scene.tproxy("list", "-o", "wide", "-n", scene.namespace).stdout
        assert "web" in said
        assert sum(scene.metric(node, "tproxy_pods_steered") for node in ("node1", "node2")) == len(pods)


def test_our_listeners_are_on_the_loopback_alone(scene: Scene) -> None:
    """Whoever looks for open ports of the pod finds none that was not there before."""

    def outward(inside: Any) -> list[str]:
        found = inside.state()["listeners"].splitlines()
        return [address for address in found if not address.startswith(("127.0.0.1:", "[::1]:"))]

    with scene.inside(scene.pods()[0]) as inside:
        before = outward(inside)
        with scene.intercepted():
            assert outward(inside) == before
