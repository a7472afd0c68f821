"""What users see, counted, while a part of the cluster fails or changes during an intercept."""

import json
import time
from collections.abc import Iterator

import pytest
import yaml

from tests.e2e import workloads as make
from tests.e2e.chart import DIRECT_PORT, Release
from tests.e2e.cluster import Cluster
from tests.e2e.control_plane import ROOT
from tests.e2e.load import Load
from tests.e2e.network import NODES
from tests.e2e.person import Person, wait
from tests.e2e.shop import NAMESPACE, Pods

LOCAL = 3200
NODE_PORT = 30081
SILENT_SECONDS = 7.0
"""Within which the app serves when the way to the laptop is silent."""
BACK_SECONDS = 5.0
"""Within which the laptop has the traffic again once there is a way again."""
BUSY_SECONDS = 3.0
"""What all of a cluster on two cores may add to that."""
STOPPED_SECONDS = 30.0


@pytest.fixture(scope="module")
def web(cluster: Cluster, dora: Person) -> Iterator[Pods]:
    """Two pods behind a node port, and an app on the laptop."""
    script = ROOT / "tests" / "lab" / "hello.py"
    app = dora.start("load", "python", script, "--port", str(LOCAL), POD="laptop")
    ports = [{"name": "web", "port": 80, "targetPort": "http", "nodePort": NODE_PORT}]
    service = make.service("web", type="NodePort", ports=ports)
    manifests = yaml.safe_dump_all([make.workload("Deployment", "web", make.template("web")), service])
    cluster.apply(manifests, NAMESPACE)
    pods = Pods(cluster, "web")
    try:
        pods.wait_ready(2)
        wait(lambda: dora.get(f"http://localhost:{LOCAL}/").startswith("laptop"), "the app on the laptop")
        yield pods
    finally:
        app.kill()
        cluster.kubectl("delete", "-n", NAMESPACE, "--now", "-f", "-", text=manifests)


@pytest.fixture
def load(cluster: Cluster, dora: Person, web: Pods) -> Iterator[Load]:
    """Intercepted, and users at both nodes' ports see the laptop."""
    dora.tproxy("intercept", "web", "--port", f"{LOCAL}:http")
    try:
        with Load(cluster.user, cluster.directory, [(address, NODE_PORT) for address in NODES.values()]) as one:
            one.wait_answered("laptop", 0.0)
            yield one
    finally:
        dora.tproxy("leave", "web", check=False)
        cluster.kubectl("uncordon", *NODES)
    web.wait_ready(2)
    assert web.themselves()


def report(title: str, load: Load, since: float, **seconds: float) -> None:
    """For a reader of `pytest -s`, and of what fails."""
    told = ", ".join(f"{what.replace('_', ' ')} after {took:.2f} s" for what, took in seconds.items())
    print(f"\n{title}: {told}\n{load.table(since)}")


def failures(load: Load, since: float) -> list[str]:
    """What users saw beside answers."""
    return [f"{one.kind} at {one.began - since:.2f} s: {one.who}" for one in load.requests(since) if one.failed]


def test_node_daemon_pod_deleted(cluster: Cluster, load: Load, web: Pods) -> None:
    """It gives its ports back before it ends, so nobody notices; the new one takes them again by itself."""
    before = web.identities()
    [pod, _] = web.listed()
    node = pod["spec"]["nodeName"]
    daemon = ("-n", "tproxy-system", "-l", "app.kubernetes.io/component=node", f"--field-selector=spec.nodeName={node}")
    began = time.monotonic()
    cluster.kubectl("delete", "pod", *daemon)
    gone = time.monotonic()
    wait(lambda: web.ask(pod["status"]["podIP"], 8080) == "laptop", "steered by the new daemon", 60)
    back = time.monotonic()
    load.wait_answered("laptop", back)
    report("node daemon's pod deleted", load, began, gone=gone - began, steered_again=back - began)
    assert failures(load, began) == []
    assert web.identities() == before


def test_helm_upgrade(cluster: Cluster, load: Load, web: Pods) -> None:
    """The node daemons are replaced one node after the other, as if each had been deleted."""
    before, daemons = web.identities(), daemon_pods(cluster)
    began = time.monotonic()
    Release(cluster.plane).upgrade({"log": {"level": "debug"}})
    rollout = ("rollout", "status", "-n", "tproxy-system", "daemonset/tproxy-node", "--timeout=180s")
    cluster.kubectl(*rollout)
    upgraded = time.monotonic()
    wait(lambda: web.all_answer("laptop"), "steered by the new daemons", 60)
    back = time.monotonic()
    load.wait_answered("laptop", back)
    report("helm upgrade", load, began, upgraded=upgraded - began, steered_again=back - began)
    assert failures(load, began) == []
    assert web.identities() == before
    assert not daemons & daemon_pods(cluster)


def daemon_pods(cluster: Cluster) -> set[str]:
    """The node daemons' pods that are there and do not end."""
    query = ("get", "pods", "-n", "tproxy-system", "-l", "app.kubernetes.io/component=node", "-o", "json")
    found = json.loads(cluster.kubectl(*query))["items"]
    return {pod["metadata"]["name"] for pod in found if "deletionTimestamp" not in pod["metadata"]}


def test_kubelet_stopped(cluster: Cluster, load: Load, web: Pods) -> None:
    """Port-forwards go through kubelets: the app serves, until it goes on."""
    before = web.identities()
    began = time.monotonic()
    cluster.nodes["node1"].stop_kubelet()
    try:
        [address] = [pod["status"]["podIP"] for pod in web.listed() if pod["spec"]["nodeName"] == "node1"]
        served = load.wait_answered("pod", began)
        # The time is what is tested: so long nothing else may change.
        time.sleep(max(0.0, began + STOPPED_SECONDS - time.monotonic()))
    finally:
        cluster.nodes["node1"].continue_kubelet()
    continued = time.monotonic()
    wait(lambda: web.ask(address, 8080) == "laptop", "the laptop again")
    back = time.monotonic()
    load.wait_answered("laptop", back)
    report("kubelet stopped for 30 s", load, began, app_serves=served - began, steered_again=back - continued)
    assert served - began < SILENT_SECONDS + BUSY_SECONDS
    assert back - continued < BACK_SECONDS + BUSY_SECONDS
    assert failures(load, began) == []
    assert web.identities() == before


def test_rollout(cluster: Cluster, load: Load, web: Pods) -> None:
    """New pods are steered as they become ready, before their Service sends anybody to them."""
    before = set(web.identities())
    began = time.monotonic()
    cluster.kubectl("rollout", "restart", "-n", NAMESPACE, "deployment/web")
    cluster.kubectl("rollout", "status", "-n", NAMESPACE, "deployment/web", "--timeout=120s")
    rolled = time.monotonic()
    wait(lambda: len(web.identities()) == 2 and not before & set(web.identities()), "two new pods")
    wait(lambda: web.all_answer("laptop"), "all steered")
    report("workload rolled out", load, began, rolled_out=rolled - began)
    assert failures(load, began) == []


def test_node_drained(cluster: Cluster, load: Load, web: Pods) -> None:
    """Its pods are evicted, start on the other node, and are the laptop's there."""
    spread(cluster, web)
    cordon(cluster, "node2")
    began = time.monotonic()
    # Only those of the namespace: what else is there is no matter of this test.
    cluster.kubectl("drain", "node2", "--ignore-daemonsets", "--pod-selector=app=web", "--timeout=120s")
    drained = time.monotonic()
    web.wait_ready(2)
    assert {pod["spec"]["nodeName"] for pod in web.listed()} == {"node1"}
    wait(lambda: web.all_answer("laptop"), "all steered")
    report("node drained", load, began, drained=drained - began)
    assert failures(load, began) == []


def cordon(cluster: Cluster, node: str) -> None:
    """Keep new pods away from it."""
    cluster.kubectl("cordon", node)
    # The scheduler learns it from the API server as everybody does: what it places meanwhile a drain would not see.
    taints = ("get", "node", node, "-o", "jsonpath={.spec.taints[*].key}")
    wait(lambda: "node.kubernetes.io/unschedulable" in cluster.kubectl(*taints), "a taint")


def spread(cluster: Cluster, web: Pods) -> None:
    """One pod on each node, and none that still ends: where all pods go at once, nobody is left to serve."""
    [pod, other] = web.listed()
    if pod["spec"]["nodeName"] == other["spec"]["nodeName"]:
        cordon(cluster, pod["spec"]["nodeName"])
        cluster.kubectl("delete", "pod", "-n", NAMESPACE, pod["metadata"]["name"])
        web.wait_ready(2)
        cluster.kubectl("uncordon", pod["spec"]["nodeName"])
    there = ("get", "pods", "-n", NAMESPACE, "-l", "app=web", "-o", "name")
    wait(lambda: len(cluster.kubectl(*there).split()) == 2, "no pods that end")
    assert {pod["spec"]["nodeName"] for pod in web.listed()} == set(NODES)
    wait(lambda: web.all_answer("laptop"), "all steered")


# These are the last: after them controllers, the scheduler and kube-proxy wait for up to a minute before they ask
# again, as they do everywhere. Until then new pods are not made, or are placed by what was true before.


def test_api_server_killed(cluster: Cluster, load: Load, web: Pods) -> None:
    """Port-forwards go through it as well. Steering comes back by itself within seconds of its return."""
    before = web.identities()
    began = time.monotonic()
    cluster.plane.kill("kube-apiserver")
    served = load.wait_answered("pod", began)
    # For longer than anybody would take for a hiccup.
    time.sleep(max(0.0, began + 10 - time.monotonic()))
    cluster.plane.start_api_server()
    ready = time.monotonic()
    back = load.wait_answered("laptop", ready, 50)
    report("API server killed for 10 s", load, began, app_serves=served - began, steered_again=back - ready)
    assert served - began < SILENT_SECONDS + BUSY_SECONDS
    assert back - ready < BACK_SECONDS + BUSY_SECONDS
    assert failures(load, began) == []
    assert web.identities() == before


def test_api_server_killed_and_nodes_reached_directly(cluster: Cluster, load: Load, web: Pods, dora: Person) -> None:
    """Nothing of the way is the API server's: nobody notices."""
    before = web.identities()
    dora.tproxy("intercept", "web", "--port", f"{LOCAL}:http", "--transport", "direct")
    try:
        load.wait_answered("laptop", time.monotonic())
        [found] = json.loads(dora.tproxy("status", "-o", "json").stdout)["clusters"]
        assert {node["address"] for node in found["nodes"]} <= {f"{one}:{DIRECT_PORT}" for one in NODES.values()}
        # While the way changed the pods served, and kept connections come over from them when there is a moment for it.
        wait(lambda: all(load.is_by(one, "laptop") for one in load.requests(time.monotonic() - 2)), "all at the laptop")
        began = time.monotonic()
        cluster.plane.kill("kube-apiserver")
        time.sleep(10.0)
        cluster.plane.start_api_server()
        load.wait_answered("laptop", time.monotonic())
        report("API server killed for 10 s, nodes reached directly", load, began)
        assert failures(load, began) == []
        assert all(load.is_by(request, "laptop") for request in load.requests(began))
        assert web.identities() == before
    finally:
        dora.tproxy("intercept", "web", "--port", f"{LOCAL}:http", "--transport", "port-forward", check=False)
