"""Workloads of every kind, on real controllers: intercepted, and given back with the same pods."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.e2e import workloads as make
from tests.e2e.chart import GROUP
from tests.e2e.cluster import Cluster
from tests.e2e.control_plane import ROOT
from tests.e2e.person import Person, wait
from tests.e2e.shop import NAMESPACE, Pods

LOCAL = 3100
GATE = "tproxy.dev/gate"
STATE = make.service("state", clusterIP="None")
JOB = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {"name": "job"},
    "spec": {"template": make.template("job", restartPolicy="Never")},
}
SIDECAR = make.container("second", 8081, "second")
KINDS = {
    "deployment/several": make.workload("Deployment", "several", make.template("several", [make.container(), SIDECAR])),
    "statefulset/state": make.workload("StatefulSet", "state", make.template("state"), serviceName="state"),
    "daemonset/every": make.workload("DaemonSet", "every", make.template("every"), replicas=None),
    "replicaset/set": make.workload("ReplicaSet", "set", make.template("set")),
    "job/job": JOB,
    "pod/bare": make.bare("bare", make.template("bare")),
}
COUNTS = {"job": 1, "bare": 1}


def name_of(target: str) -> str:
    return target.rpartition("/")[2]


@pytest.fixture(scope="module")
def laptop(cluster: Cluster, dora: Person) -> Iterator[Person]:
    """With an app on it, and everything to intercept in the cluster."""
    script = ROOT / "tests" / "lab" / "hello.py"
    app = dora.start("workloads", "python", script, "--port", str(LOCAL), POD="laptop")
    everything = [*KINDS.values(), STATE, make.service("several", target="http")]
    manifests = yaml.safe_dump_all(everything)
    cluster.apply(manifests, NAMESPACE)
    try:
        for target in KINDS:
            Pods(cluster, name_of(target)).wait_ready(COUNTS.get(name_of(target), 2))
        wait(lambda: dora.get(f"http://localhost:{LOCAL}/").startswith("laptop"), "the app on the laptop")
        yield dora
    finally:
        app.kill()
        dora.tproxy("leave", "--all", check=False)
        cluster.kubectl("delete", "-n", NAMESPACE, "--now", "-f", "-", text=manifests)


@pytest.mark.parametrize("target", KINDS)
def test_kind(cluster: Cluster, laptop: Person, target: str) -> None:
    pods = Pods(cluster, name_of(target))
    before = pods.identities()
    assert pods.themselves()
    laptop.tproxy("intercept", target, "--port", f"{LOCAL}:http")
    try:
        assert pods.all_answer("laptop")
        assert pods.identities() == before
    finally:
        laptop.tproxy("leave", target)
    assert pods.themselves()
    assert pods.identities() == before


def test_custom_owner(cluster: Cluster, laptop: Person) -> None:
    """Somebody's own kind, whose controller makes ReplicaSets."""
    names = {"kind": "Fleet", "plural": "fleets", "singular": "fleet"}
    schema = {"openAPIV3Schema": {"type": "object"}}
    version = {"name": "v1", "served": True, "storage": True, "schema": schema}
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"fleets.{GROUP}"},
        "spec": {"group": GROUP, "names": names, "scope": "Namespaced", "versions": [version]},
    }
    cluster.apply(yaml.safe_dump(definition))
    try:
        cluster.kubectl("wait", "--for=condition=Established", f"crd/fleets.{GROUP}", "--timeout=30s")
        fleet = {"apiVersion": f"{GROUP}/v1", "kind": "Fleet", "metadata": {"name": "trucks"}}
        cluster.apply(yaml.safe_dump(fleet), NAMESPACE)
        uid = cluster.kubectl("get", "fleet", "trucks", "-n", NAMESPACE, "-o", "jsonpath={.metadata.uid}")
        owner = {**fleet, "name": "trucks", "uid": uid, "controller": True}
        del owner["metadata"]
        owned = make.workload("ReplicaSet", "trucks", make.template("trucks"))
        owned["metadata"]["ownerReferences"] = [owner]
        cluster.apply(yaml.safe_dump(owned), NAMESPACE)
        pods = Pods(cluster, "trucks")
        pods.wait_ready(2)
        laptop.tproxy("intercept", "Fleet/trucks", "--port", f"{LOCAL}:http")
        assert pods.all_answer("laptop")
        laptop.tproxy("leave", "Fleet/trucks")
        assert pods.themselves()
    finally:
        laptop.tproxy("leave", "--all", check=False)
        cluster.kubectl("delete", "replicaset", "trucks", "-n", NAMESPACE, "--now")
        cluster.kubectl("delete", "crd", f"fleets.{GROUP}")


def test_the_other_container_is_left_alone(cluster: Cluster, laptop: Person) -> None:
    pods = Pods(cluster, "several")
    laptop.tproxy("intercept", "several", "--port", f"{LOCAL}:second")
    try:
        assert pods.all_answer("laptop", 8081)
        assert pods.themselves(8080)
    finally:
        laptop.tproxy("leave", "several")


def inside(cluster: Cluster, url: str) -> str:
    """Who answers a pod, which asks by name."""
    code = f"import urllib.request; print(urllib.request.urlopen({url!r}, timeout=8).read().decode().split()[0])"
    return cluster.kubectl("exec", "-n", NAMESPACE, "bare", "--", "python", "-c", code).strip()


def test_headless_service(cluster: Cluster, laptop: Person) -> None:
    """Its names are pods' own addresses: no Service address is in between."""
    url = "http://state-1.state.shop.svc.cluster.local:8080/"
    assert inside(cluster, url) == "state-1"
    laptop.tproxy("intercept", "svc/state", "--port", f"{LOCAL}:web")
    try:
        assert inside(cluster, url) == "laptop"
    finally:
        laptop.tproxy("leave", "state")
    assert inside(cluster, url) == "state-1"


def test_named_target_port(cluster: Cluster, laptop: Person) -> None:
    """The Service's port has another number and another name than the container's."""
    laptop.tproxy("intercept", "svc/several", "--port", f"{LOCAL}:web")
    try:
        assert inside(cluster, "http://several/") == "laptop"
    finally:
        laptop.tproxy("leave", "several")
    assert inside(cluster, "http://several/").startswith("several-")


def test_host_network_is_refused(cluster: Cluster, laptop: Person) -> None:
    host = make.bare("host", make.template("host", [make.container(port=8099)], hostNetwork=True))
    cluster.apply(yaml.safe_dump(host), NAMESPACE)
    try:
        pods = Pods(cluster, "host")
        pods.wait_ready(1)
        done = laptop.tproxy("intercept", "pod/host", "--port", f"{LOCAL}:8099", check=False)
        assert done.returncode != 0
        assert "host" in done.stderr
        assert "network" in done.stderr, done.stderr
        assert "hint:" in done.stderr
        assert pods.themselves(8099)
        assert json.loads(laptop.tproxy("list", "-o", "json").stdout)["intercepts"] == []
    finally:
        cluster.kubectl("delete", "pod", "host", "-n", NAMESPACE, "--now")


def test_readiness_gate(cluster: Cluster, laptop: Person) -> None:
    """What else makes a pod ready is not touched: it is not ready before somebody says so, and then it is."""
    gated = make.bare("gated", make.template("gated", readinessGates=[{"conditionType": GATE}]))
    cluster.apply(yaml.safe_dump_all([gated, make.service("gated")]), NAMESPACE)
    ready = ("get", "pod", "gated", "-n", NAMESPACE, "-o", "jsonpath={.status.conditions[?(@.type=='Ready')].status}")
    try:
        pods = Pods(cluster, "gated")
        wait(lambda: pods.themselves(), "the app")
        assert cluster.kubectl(*ready) == "False"
        laptop.tproxy("intercept", "pod/gated", "--port", f"{LOCAL}:http")
        assert pods.all_answer("laptop")
        assert cluster.kubectl(*ready) == "False"
        condition = json.dumps({"status": {"conditions": [{"type": GATE, "status": "True"}]}})
        cluster.kubectl("patch", "pod", "gated", "-n", NAMESPACE, "--subresource=status", "-p", condition)
        wait(lambda: cluster.kubectl(*ready) == "True", "a ready pod")
        wait(lambda: inside(cluster, "http://gated/") == "laptop", "the Service")
    finally:
        laptop.tproxy("leave", "gated", check=False)
        cluster.kubectl("delete", "pod/gated", "service/gated", "-n", NAMESPACE, "--now")


def test_environment_and_files(cluster: Cluster, laptop: Person, tmp_path: Path) -> None:
    """A service account's token, as kubelets give it, and names that come from the pod's own fields."""
    assert "POD=state-" in laptop.tproxy("env", "statefulset/state").stdout
    files = laptop.home / "files"
    laptop.tproxy("intercept", "state", "--port", f"{LOCAL}:http", "--files", str(files))
    try:
        token = files / "var/run/secrets/kubernetes.io/serviceaccount/token"
        assert laptop.run("cat", token).stdout.count(".") == 2
    finally:
        laptop.tproxy("leave", "state")
