"""Pods as processes: what a container gets, and what becomes of it when it fails, is probed, restarted, deleted."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tproxy.kube.port import CONFIGMAPS, DEPLOYMENTS, PODS
from tproxy.lab import cgroup


def pod(name: str, command: list[str], container: str = "{}", **spec: object) -> str:
    """A manifest of a Pod with one container; `container` is JSON to be merged into it."""
    body = {"name": "main", "command": command} | json.loads(container)
    fields = {"terminationGracePeriodSeconds": 1, "containers": [body]} | spec
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": fields})


def container_status(lab: Any, namespace: str, name: str) -> Any:
    statuses = lab.client.get(PODS, name, namespace).get("status", {}).get("containerStatuses") or [{}]
    return statuses[0]


def exec_place(namespace: str, name: str) -> str:
    return f"pod/{namespace}/{name}"


def test_a_container_gets_what_its_manifest_says(lab: Any, namespace: str) -> None:
    lab.client.create(CONFIGMAPS, {"metadata": {"name": "settings"}, "data": {"colour": "green"}}, namespace)
    container = {
        "args": ["-c", "import os, json, sys; print(json.dumps([dict(os.environ), os.getcwd(), sys.argv]))", "$(URL)"],
        "workingDir": "/usr",
        "env": [
            {"name": "PORT", "value": "8080"},
            {"name": "URL", "value": "http://$(HOST_IP):$(PORT)"},
            {"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "colour"}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        ],
    }
    lab.apply(pod("shows", ["python"], json.dumps(container), restartPolicy="Never"), namespace, wait=False)
    lab.wait(lambda: lab.client.get(PODS, "shows", namespace)["status"]["phase"] == "Succeeded", "the end of the pod")
    environment, directory, arguments = json.loads(lab.run("logs", f"{namespace}/shows").stdout)
    assert directory == "/usr"
    assert arguments == ["-c", "http://$(HOST_IP):8080"]
    assert environment["COLOUR"] == "green"
    assert environment["IP"] == lab.client.get(PODS, "shows", namespace)["status"]["podIP"]
    assert environment["HOSTNAME"] == "shows"
    assert not [name for name in environment if name.startswith(("TPROXY", "SUDO", "SSH"))]


def test_processes_carry_the_kubelets_cgroup_path(lab: Any, namespace: str) -> None:
    lab.apply(pod("sleeps", ["sleep", "1000"]), namespace)
    record = lab.ready_pod(namespace, "sleeps")
    uid = lab.client.get(PODS, "sleeps", namespace)["metadata"]["uid"]
    identity = container_status(lab, namespace, "sleeps")["containerID"].removeprefix("containerd://")
    assert len(identity) == 64
    prefix = f"0::/tproxy-lab-{lab.layout.name}/{record['node']}/kubepods/burstable/pod{uid}/"
    paths = {
        pid: next(line for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines() if line.startswith("0::"))
        for pid in record["pids"]
    }
    assert len(paths) == 2
    assert all(path.startswith(prefix) and len(path) == len(prefix) + 64 for path in paths.values())
    assert paths[record["containers"][0]["pid"]] == prefix + identity
    inside = {os.stat(f"/proc/{pid}/ns/net").st_ino for pid in record["pids"]}
    assert inside == {Path("/run/netns", record["netns"]).stat().st_ino}


def test_readiness_follows_the_probe_and_the_service_follows_readiness(lab: Any, namespace: str) -> None:
    lab.apply(lab.server("web"), namespace)
    record = lab.ready_pod(namespace, "web")
    place, switch = exec_place(namespace, record["name"]), f"/tmp/{record['name']}.unready"  # noqa: S108
    url = f"http://web.{namespace}/"

    def served() -> bool:
        return lab.exec("user", "curl", "-s", "--max-time", "2", url, check=False).returncode == 0

    assert served()
    probes = lab.exec(place, "curl", "-s", "http://localhost:8080/probes").stdout
    node = next(node for node in lab.status()["nodes"] if node["name"] == record["node"])
    assert set(probes.splitlines()) == {f"kube-probe/1.34 {node['addresses'][0]}"}
    try:
        lab.exec(place, "touch", switch)
        lab.wait(lambda: not lab.pods(namespace, "web")[0]["ready"], "unready")
        conditions = lab.client.get(PODS, record["name"], namespace)["status"]["conditions"]
        assert "statuscode: 503" in next(one["message"] for one in conditions if one["type"] == "Ready")
        lab.wait(lambda: not served(), "the Service without the pod")
    finally:
        lab.exec(place, "rm", "-f", switch)
    lab.wait(served, "the Service with the pod again")
    assert lab.pods(namespace, "web")[0]["restarts"] == 0


def test_a_failing_liveness_probe_restarts_the_container(lab: Any, namespace: str) -> None:
    mark = Path(f"/tmp/{namespace}")  # noqa: S108
    check = {"exec": {"command": ["test", "!", "-e", str(mark)]}, "periodSeconds": 1, "failureThreshold": 2}
    probe = json.dumps({"livenessProbe": check})
    lab.apply(pod("frail", ["sleep", "1000"], probe), namespace)
    first = lab.ready_pod(namespace, "frail")["containers"][0]["pid"]
    try:
        mark.touch()
        lab.wait(lambda: container_status(lab, namespace, "frail").get("restartCount"), "a restart")
    finally:
        mark.unlink()
    again = lab.wait(lambda: lab.pods(namespace, "frail")[0]["containers"][0]["pid"], "the new process")
    assert again != first
    ended = container_status(lab, namespace, "frail")["lastState"]["terminated"]
    assert ended["exitCode"] == 128 + signal.SIGTERM
    assert "Liveness probe failed: command exited with 1" in ended["message"]


def test_a_crash_is_restarted_and_backs_off(lab: Any, namespace: str) -> None:
    lab.apply(pod("crashes", ["sh", "-c", "echo again; exit 3"]), namespace, wait=False)
    waiting = lab.wait(
        lambda: (
            container_status(lab, namespace, "crashes").get("state", {}).get("waiting", {}).get("reason")
            == "CrashLoopBackOff"
        ),
        "back-off",
    )
    assert waiting
    status = container_status(lab, namespace, "crashes")
    assert status["restartCount"] >= 1
    assert status["lastState"]["terminated"]["exitCode"] == 3
    assert lab.run("logs", f"{namespace}/crashes").stdout.splitlines()[:2] == ["again", "again"]


@pytest.mark.parametrize(
    ("policy", "code", "phase"),
    [("Never", 0, "Succeeded"), ("Never", 5, "Failed"), ("OnFailure", 0, "Succeeded")],
)
def test_restart_policies_that_end(lab: Any, namespace: str, policy: str, code: int, phase: str) -> None:
    lab.apply(pod("once", ["sh", "-c", f"exit {code}"], restartPolicy=policy), namespace, wait=False)
    lab.wait(lambda: lab.client.get(PODS, "once", namespace)["status"]["phase"] == phase, phase)
    status = container_status(lab, namespace, "once")
    assert status["restartCount"] == 0
    assert status["state"]["terminated"]["exitCode"] == code


def test_a_container_that_cannot_start_says_why(lab: Any, namespace: str) -> None:
    lab.apply(pod("imaged", []), namespace, wait=False)
    waiting = lab.wait(
        lambda: container_status(lab, namespace, "imaged").get("state", {}).get("waiting", {}).get("message"),
        "a reason",
    )
    assert "the lab does not run images" in waiting
    said = lab.run(
        "apply", "-f", "-", "-n", namespace, "--wait", "--timeout", "0.1", text=pod("imaged", []), check=False
    )
    assert said.returncode == 3
    assert "the lab does not run images" in said.stderr


def test_deleting_a_pod_asks_first_and_then_kills_everything_in_it(lab: Any, namespace: str) -> None:
    stubborn = "trap 'echo asked' TERM; setsid sleep 1000 & echo up; while :; do sleep 1000 & wait $!; done"
    lab.apply(pod("stubborn", ["sh", "-c", stubborn]), namespace)
    record = lab.ready_pod(namespace, "stubborn")
    lab.wait(lambda: "up" in lab.run("logs", f"{namespace}/stubborn").stdout, "the trap")
    group = Path(record["cgroup"])
    assert len(list(cgroup.processes(group))) >= 4
    with lab.start("logs", f"{namespace}/stubborn", "-f", stdout=-1) as following:
        lab.client.delete(PODS, "stubborn", namespace)
        assert "asked" in following.stdout.read()
    lab.wait(lambda: not group.exists(), "the end of the pod's processes")
    lab.wait(lambda: not lab.pods(namespace, "stubborn"), "the end of its record")
    assert not Path("/run/netns", record["netns"]).exists()


def test_the_death_of_a_whole_pod_gives_it_a_new_sandbox(lab: Any, namespace: str) -> None:
    lab.apply(lab.server("web"), namespace)
    before = lab.ready_pod(namespace, "web")
    cgroup.kill(Path(before["cgroup"]))

    def reborn() -> bool:
        found = lab.pods(namespace, "web")
        return bool(found and found[0]["ready"] and found[0]["holder"] != before["holder"])

    lab.wait(reborn, "a new sandbox")
    after = lab.pods(namespace, "web")[0]
    assert (after["uid"], after["restarts"]) == (before["uid"], 1)
    lab.wait(
        lambda: lab.exec("user", "curl", "-s", f"http://web.{namespace}/", check=False).stdout.startswith(
            after["name"]
        ),
        "the Service at the new address",
    )


def test_a_deployment_rolls_over_without_a_gap(lab: Any, namespace: str) -> None:
    lab.apply(lab.server("web", replicas=2), namespace)
    before = {pod["name"] for pod in lab.pods(namespace, "web")}
    patch = {"spec": {"template": {"metadata": {"annotations": {"round": "2"}}}}}
    lab.client.patch(DEPLOYMENTS, "web", patch, namespace)
    url = f"http://web.{namespace}/"

    def rolled() -> bool:
        assert lab.exec("user", "curl", "-sS", "--max-time", "2", url).stdout
        return not before & {pod["name"] for pod in lab.pods(namespace, "web")}

    lab.wait(rolled, "only new pods")


def test_a_pod_on_its_nodes_network(lab: Any, namespace: str) -> None:
    lab.apply(pod("host", ["sleep", "1000"], hostNetwork=True, nodeName="node2"), namespace)
    record = lab.ready_pod(namespace, "host")
    assert record["addresses"] == ["10.99.0.12", "fd99::12"]
    assert record["netns"] == f"tproxy-{lab.layout.name}-node2"
    lab.client.delete(PODS, "host", namespace)
    lab.wait(lambda: not lab.pods(namespace), "the end of the pod")
    assert lab.exec("node/2", "true").returncode == 0


def test_a_deleted_node_daemon_comes_back(lab: Any) -> None:
    before = next(pod for pod in lab.pods("tproxy-system", "tproxy-node-node2"))
    lab.client.delete(PODS, before["name"], "tproxy-system")

    def back() -> bool:
        found = lab.pods("tproxy-system", "tproxy-node-node2")
        return bool(found and found[0]["uid"] != before["uid"] and found[0]["ready"])

    lab.wait(back, "a new daemon pod")
    node = next(node for node in lab.status()["nodes"] if node["name"] == "node2")
    assert node["daemon"]["pod"] == before["name"]
    assert Path(f"/proc/{node['daemon']['pid']}").exists()
