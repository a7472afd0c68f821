"""`--transport direct` in the lab: the laptop reaches a port of the nodes, and nothing goes through the API server."""

from collections.abc import Iterator

import pytest

from tests.lab.scene import Scene
from tproxy.lab.daemons import DIRECT_PORT


@pytest.fixture(autouse=True)
def by_port_forward_again(scene: Scene) -> Iterator[None]:
    yield
    scene.tproxy("quit", check=False)


def forwards(scene: Scene) -> int:
    """Port-forwards of the laptop's daemon: its sockets in the runtime directory."""
    directory = scene.lock.parent / "forward"
    return len(list(directory.glob("*.sock"))) if directory.exists() else 0


def test_the_laptop_goes_past_the_api_server(scene: Scene) -> None:
    made = scene.intercept("--transport", "direct")
    assert {pod["state"] for pod in made["pods"]} == {"Ready"}
    scene.wait_seen("laptop")
    [cluster] = scene.json("status")["clusters"]
    nodes = {node["node"]: (node["transport"], node["address"]) for node in cluster["nodes"]}
    assert nodes == {
        "node1": ("direct", f"10.99.0.11:{DIRECT_PORT}"),
        "node2": ("direct", f"10.99.0.12:{DIRECT_PORT}"),
    }
    assert forwards(scene) == 0
    assert "direct" in scene.tproxy("status").stdout
    scene.leave()
    scene.wait_seen("pod")


def test_doctor_says_which_way_and_whether_it_is_open(scene: Scene) -> None:
    scene.intercept("--transport", "direct")
    checks = {one["name"]: one for one in scene.json("doctor")["checks"]}
    assert checks["transport"]["text"] == "direct: nodes are reached past the API server, by TLS"
    assert checks["direct"]["outcome"] == "pass"
    assert checks["direct"]["text"].startswith("reaches 2 node daemons by TLS")
    scene.leave()


def test_the_laptop_reaches_nothing_else_of_the_nodes(scene: Scene) -> None:
    """It is a stage for a laptop outside of the cluster."""
    addresses = ((scene.address(), 8080), ("10.99.0.11", 8080), ("10.99.0.11", 4771), ("10.96.0.10", 53))
    for address, port in addresses:
        url = f"http://{address}:{port}/"
        refused = scene.lab.exec("laptop", "curl", "-sS", "--max-time", "5", url, check=False)
        assert refused.returncode == 7, refused.stderr


def test_a_daemon_that_is_not_exposed(scene: Scene) -> None:
    """The sentence and the remedy, as a person gets them."""
    pods = scene.lab.pods("tproxy-system", "tproxy-node-")
    for pod in pods:
        scene.lab.exec("laptop", "kubectl", "-n", "tproxy-system", "annotate", "pod", pod["name"], *DROPPED)
    said = scene.tproxy("intercept", "web", "-p", "3900:8080", "-n", scene.namespace, *DIRECT, check=False)
    assert said.returncode == 3
    assert "has no address for direct connections" in said.stderr
    assert "hint: `--transport port-forward` goes through the API server instead" in said.stderr
    for pod in pods:
        scene.lab.exec("laptop", "kubectl", "-n", "tproxy-system", "delete", "pod", pod["name"], "--wait=false")
    gone = {pod["uid"] for pod in pods}

    def back() -> bool:
        return [pod["ready"] for pod in scene.lab.pods("tproxy-system") if pod["uid"] not in gone] == [True, True]

    scene.lab.wait(back, "node daemons that say where they are")


DIRECT = ("--transport", "direct")
DROPPED = ("tproxy.dev/direct-address-", "tproxy.dev/direct-certificate-")
