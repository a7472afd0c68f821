"""Real kubectl against the lab's API server."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tproxy.kube.port import NODES, PODS
from tproxy.lab.api import rbac

from .conftest import Server

MANIFESTS = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: v1, ports: [{name: http, containerPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: tproxy.dev/v1alpha1
kind: Intercept
metadata: {name: web-1}
spec: {session: laptop, target: {kind: Deployment, name: web}, ports: [{port: 8080}]}
"""

Kubectl = Callable[..., str]


@pytest.fixture
def kubectl(server: Server, kubeconfig: Path, tmp_path: Path) -> Kubectl:
    """Runs kubectl and returns what it printed; `fails=True` expects failure and returns stderr."""
    program = shutil.which("kubectl")
    assert program, "kubectl is needed: apt-get install kubernetes-client"

    def run(*arguments: str, fails: bool = False, stdin: str = "") -> str:
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "KUBECONFIG": str(kubeconfig)}
        done = subprocess.run(
            [program, *arguments], env=environment, input=stdin, text=True, capture_output=True, timeout=60
        )
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stderr if fails else done.stdout

    return run


def until(holds: Callable[[], bool], seconds: float = 10) -> None:
    """Ask again and again: controllers take a moment."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end


def rows(output: str) -> list[list[str]]:
    return [line.split() for line in output.strip().splitlines()]


def test_create_get_delete(server: Server, kubectl: Kubectl) -> None:
    created = kubectl("create", "-f", "-", stdin=MANIFESTS)
    assert rows(created) == [
        ["deployment.apps/web", "created"],
        ["service/web", "created"],
        ["intercept.tproxy.dev/web-1", "created"],
    ]
    assert rows(kubectl("get", "ns"))[0] == ["NAME", "STATUS", "AGE"]
    header, row = rows(kubectl("get", "svc", "-o", "wide"))
    assert header == ["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE", "SELECTOR"]
    assert (row[1], row[4], row[6]) == ("ClusterIP", "80/TCP", "app=web")
    header, row = rows(kubectl("get", "intercepts"))
    assert header == ["NAME", "KIND", "TARGET", "PORTS", "SESSION", "AGE"]
    assert row[:5] == ["web-1", "Deployment", "web", "8080", "laptop"]
    assert json.loads(kubectl("get", "intercept", "web-1", "-o", "json"))["spec"]["onDisconnect"] == "fallback"
    assert rows(kubectl("get", "deploy"))[1][:2] == ["web", "0/2"]
    until(lambda: len(rows(kubectl("get", "pods", "-A", "-l", "app=web", "--no-headers"))) == 2)
    assert "pod/web-" in kubectl("get", "all", "-o", "name")
    # Without --wait=false kubectl watches until they are gone.
    assert "deleted" in kubectl("delete", "deployment/web", "service/web", "intercept/web-1")
    assert kubectl("get", "deploy,svc,intercepts", "-o", "name") == ""


def test_pods_end_when_their_kubelet_says_so(server: Server, kubectl: Kubectl) -> None:
    server.running_pod()
    kubectl("delete", "pod", "p", "--wait=false")
    assert rows(kubectl("get", "pods"))[1][2] == "Terminating"
    server.call(lambda store: store.delete(PODS, "p", grace_seconds=0))
    assert "not found" in kubectl("get", "pod", "p", fails=True)
    server.running_pod()
    kubectl("delete", "pod", "p", "--grace-period=0", "--force")
    assert kubectl("get", "pods", "-o", "name") == ""


def test_namespaces_go_with_their_contents(kubectl: Kubectl) -> None:
    kubectl("create", "namespace", "shop")
    kubectl("create", "configmap", "c", "-n", "shop", "--from-literal=colour=green")
    assert yaml.safe_load(kubectl("get", "cm", "c", "-n", "shop", "-o", "yaml"))["data"] == {"colour": "green"}
    kubectl("create", "-n", "shop", "-f", "-", stdin=MANIFESTS)
    kubectl("delete", "namespace", "shop")
    assert "not found" in kubectl("get", "namespace", "shop", fails=True)


def test_changes(kubectl: Kubectl) -> None:
    kubectl("create", "-f", "-", stdin=MANIFESTS)
    kubectl("scale", "deployment", "web", "--replicas=3")
    until(lambda: len(rows(kubectl("get", "pods", "--no-headers"))) == 3)
    kubectl("patch", "deployment", "web", "--type=merge", "-p", '{"spec": {"replicas": 1}}')
    kubectl("patch", "deployment", "web", "--type=json", "-p", '[{"op": "remove", "path": "/spec/replicas"}]')
    kubectl("set", "image", "deployment/web", "c=v2")
    container = json.loads(kubectl("get", "deployment", "web", "-o", "json"))["spec"]["template"]["spec"]["containers"][
        0
    ]
    assert (container["image"], container["ports"][0]["name"]) == ("v2", "http")
    kubectl("label", "service", "web", "team=edge")
    assert kubectl("get", "svc", "-l", "team=edge", "-o", "name") == "service/web\n"
    kubectl("apply", "-f", "-", stdin=MANIFESTS.replace("replicas: 2", "replicas: 4"))
    assert kubectl("get", "deployment", "web", "-o", "jsonpath={.spec.replicas}") == "4"


def test_what_is_refused(kubectl: Kubectl) -> None:
    kubectl("create", "-f", "-", stdin=MANIFESTS)
    assert "AlreadyExists" in kubectl("create", "-f", "-", fails=True, stdin=MANIFESTS)
    spec = '{"spec": {"target": {"name": "api"}}}'
    assert "target is immutable" in kubectl("patch", "intercept", "web-1", "--type=merge", "-p", spec, fails=True)
    wrong = MANIFESTS.replace("web-1", "web-2").replace("ports: [{port: 8080}]", "ports: [{port: 0}]")
    assert "should be greater than or equal to 1" in kubectl("create", "-f", "-", fails=True, stdin=wrong)
    assert "doesn't have a resource type" in kubectl("get", "leases", fails=True)


def test_rights(kubectl: Kubectl) -> None:
    assert kubectl("auth", "can-i", "create", "pods") == "yes\n"
    with Server(rbac.developer("dora", "default")) as server:
        there = ("--server", server.url)
        assert kubectl("auth", "can-i", "create", "intercepts.tproxy.dev", *there) == "yes\n"
        kubectl("auth", "can-i", "create", "pods", "--quiet", *there, fails=True)
        refused = kubectl("get", "nodes", *there, fails=True)
        assert 'nodes is forbidden: User "dora" cannot list resource "nodes"' in refused


def test_port_forward_says_what_it_wants(server: Server, kubectl: Kubectl) -> None:
    server.running_pod()
    assert "over WebSockets with v4.channel.k8s.io only" in kubectl("port-forward", "pod/p", ":80", fails=True)


def test_logs_and_wide_pods(server: Server, kubectl: Kubectl) -> None:
    server.running_pod()
    server.call(lambda store: store.create(NODES, {"metadata": {"name": "node1"}}))
    assert kubectl("logs", "p", "--tail=1") == "default/p 2\n"
    assert kubectl("logs", "-f", "p").endswith("more\nand more\n")
    header, row = rows(kubectl("get", "pods", "-o", "wide"))
    assert header == ["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE"]
    assert (row[2], row[6]) == ("Running", "node1")
    assert rows(kubectl("get", "nodes"))[1][:2] == ["node1", "NotReady"]
