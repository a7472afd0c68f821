"""`lab exec`, `apply`, `delete`, `logs`, `kubeconfig`: what they pass through and what they say when they cannot."""

import json
import os
import pty
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

PLACES = ["laptop", "user", "node/1", "node/node2", "pod/tproxy-system/tproxy-node-node1"]


@pytest.mark.parametrize("place", PLACES)
def test_exec_passes_status_input_and_output_through(lab: Any, place: str) -> None:
    done = lab.run("exec", place, "--", "sh", "-c", "cat; echo bad >&2; exit 42", text="in and out", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (42, "in and out", "bad\n")


@pytest.mark.parametrize("place", PLACES)
def test_what_is_run_in_a_place_belongs_to_the_lab(lab: Any, place: str) -> None:
    root = f"/tproxy-lab-{lab.layout.name}/"
    groups = lab.run("exec", place, "--", "cat", "/proc/self/cgroup").stdout.splitlines()
    assert next(line for line in groups if line.startswith("0::")).startswith(f"0::{root}")
    namespace = int(lab.run("exec", place, "--", "stat", "-Lc", "%i", "/proc/self/ns/net").stdout)
    assert namespace in {(Path("/run/netns") / name).stat().st_ino for name in lab.layout.present_netns()}


def test_signals_reach_the_command_itself(lab: Any) -> None:
    script = "import signal; signal.signal(15, lambda *_: exit(7)); print('up', flush=True); signal.pause()"
    with lab.start("exec", "user", "--", "python", "-c", script, stdout=subprocess.PIPE) as running:
        assert running.stdout.readline() == "up\n"
        running.send_signal(signal.SIGTERM)
        assert running.wait(5) == 7
    with lab.start("exec", "user", "--", "sh", "-c", "kill -9 $$") as running:
        assert running.wait(10) == -signal.SIGKILL


def test_a_terminal_stays_a_terminal(lab: Any) -> None:
    outer, inner = pty.openpty()
    with lab.start("exec", "laptop", "--", "tty", stdin=inner, stdout=subprocess.PIPE) as running:
        assert running.stdout.read().strip() == os.ttyname(inner)
    os.close(outer)
    os.close(inner)


def test_the_laptop_has_its_own_files_and_no_proxy(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:1")
    monkeypatch.setenv("http_proxy", "http://proxy.example:1")
    found = dict(
        line.split("=", 1) for line in lab.run("exec", "laptop", "--", "env").stdout.splitlines() if "=" in line
    )
    assert not {"HTTPS_PROXY", "http_proxy"} & found.keys()
    assert found["HOME"] == os.environ["HOME"]
    expected = lab.status()["laptop"]["environment"]
    assert {name: found[name] for name in expected} == expected
    for name in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME"):
        assert Path(found[name]).stat().st_mode & 0o777 == 0o700
        assert found[name].startswith(str(lab.layout.state))


def test_a_pod_gives_its_own_environment(lab: Any) -> None:
    said = lab.run("exec", "pod/tproxy-system/tproxy-node-node1", "--", "sh", "-c", "echo $NODE_NAME $HOSTNAME").stdout
    assert said.split() == ["node1", "tproxy-node-node1"]


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (
            ["moon", "--", "true"],
            2,
            [
                "no place 'moon'",
                "laptop, laptop/eve, laptop/dora, laptop/debbie, user, node/1, node/2 and pod/NAMESPACE/NAME",
            ],
        ),
        (["node/7", "--", "true"], 2, ["no node '7'", "node/1, node/2"]),
        (["pod/tproxy-system/tproxy-node-nod1", "--", "true"], 2, ["has no pod", "tproxy-node-node1"]),
        (["user", "--", "no-such-command"], 127, ["no-such-command: command not found"]),
        (["user", "--", "/no/such/command"], 127, ["No such file"]),
        (["user"], 2, ["missing"]),
        (["-c", "x", "pod/tproxy-system/tproxy-node-node1", "--", "true"], 2, ["no container 'x'", "node"]),
    ],
)
def test_exec_says_what_is_wrong(lab: Any, args: list[str], code: int, words: list[str]) -> None:
    done = lab.run("exec", *args, check=False)
    assert done.returncode == code, done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    assert "Traceback" not in done.stderr


def test_apply_and_delete_say_what_became_of_each_object(lab: Any, namespace: str) -> None:
    manifests = lab.server("web")
    assert lab.apply(manifests, namespace).splitlines() == ["deployment/web created", "service/web created"]
    assert lab.apply(manifests, namespace).splitlines() == ["deployment/web unchanged", "service/web unchanged"]
    changed = lab.apply(lab.server("web", replicas=2), namespace)
    assert changed.splitlines() == ["deployment/web configured", "service/web unchanged"]
    assert len(lab.pods(namespace, "web")) == 2
    deleted = lab.run("delete", "-f", "-", "-n", namespace, "--wait", text=manifests).stdout
    assert deleted.splitlines() == ["service/web deleted", "deployment/web deleted"]
    assert not lab.pods(namespace)
    again = lab.run("delete", "-f", "-", "-n", namespace, text=manifests).stdout
    assert again.splitlines() == ["service/web not found", "deployment/web not found"]


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("a: [", 2, ["standard input is not YAML"]),
        ("{apiVersion: v1, kind: Podd, metadata: {name: x}}", 2, ["does not serve Podd of v1", "Pod"]),
        ("{apiVersion: batch/v1, kind: Job, metadata: {name: x}}", 2, ["does not serve Job of batch/v1"]),
        ("{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {}}", 2, ["spec.containers"]),
        ("{apiVersion: v1, kind: Service, metadata: {name: x, namespace: nowhere}}", 3, ["not found"]),
    ],
)
def test_wrong_manifests(lab: Any, namespace: str, text: str, code: int, words: list[str]) -> None:
    done = lab.run("apply", "-f", "-", "-n", namespace, text=text, check=False)
    assert done.returncode == code, done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_kind_is_noticed_before_anything_is_changed(lab: Any, namespace: str) -> None:
    text = lab.server("web") + "\n---\n{apiVersion: v1, kind: Podd, metadata: {name: x}}"
    assert lab.run("apply", "-f", "-", "-n", namespace, text=text, check=False).returncode == 2
    assert not lab.pods(namespace)


def test_logs(lab: Any, namespace: str) -> None:
    lab.apply(lab.server("web"), namespace)
    name = lab.ready_pod(namespace, "web")["name"]
    line = f"{name} listens on 8080\n"
    for pod in (f"pod/{namespace}/{name}", f"{namespace}/{name}", f"{namespace}/web"):
        assert lab.run("logs", pod).stdout == line
    assert lab.run("logs", "-n", namespace, "web", "-c", "web", "--tail", "1").stdout == line
    assert lab.run("exec", "laptop", "--", "kubectl", "logs", "-n", namespace, name).stdout == line
    wrong = lab.run("logs", f"{namespace}/wbe", check=False)
    assert wrong.returncode == 2
    wrong = lab.run("logs", f"{namespace}/web", "-c", "sidecar", check=False)
    assert wrong.returncode == 2
    assert "sidecar is not valid" in wrong.stderr


def test_status_as_json_is_what_programs_need(lab: Any) -> None:
    facts = json.loads(lab.run("status", "-o", "json").stdout)
    assert facts["state"] == "up"
    for node in facts["nodes"]:
        daemon = next(pod for pod in facts["pods"] if pod["name"] == node["daemon"]["pod"])
        assert daemon["node"] == node["name"]
        assert b"tproxy_node" in Path(f"/proc/{node['daemon']['pid']}/cmdline").read_bytes()
    assert b"tproxy.lab.server" in Path(f"/proc/{facts['apiServer']['pid']}/cmdline").read_bytes()
    dns = next(one for one in facts["services"] if one["name"] == "kube-dns")
    assert dns["clusterIPs"] == ["10.96.0.10", "fd96::a"]
    table = lab.run("status").stdout
    assert all(name in table for name in ("laptop", "user", "node/1", "node/2", "tproxy-node-node1", "kube-dns"))


def test_the_kubeconfig_is_the_laptops(lab: Any) -> None:
    printed = json.loads(lab.run("kubeconfig").stdout)
    assert printed["clusters"][0]["cluster"]["server"] == lab.status()["apiServer"]["url"]


def test_a_lab_that_is_not_up_says_so(own_lab: Any) -> None:
    none = own_lab(None)
    for verb, *args in (["exec", "user", "--", "true"], ["logs", "web"], ["kubeconfig"], ["apply", "-f", "-"]):
        text = "{apiVersion: v1, kind: Pod, metadata: {name: x}}" if verb == "apply" else None
        done = none.run(verb, *args, text=text, check=False)
        assert done.returncode == 3, done.stderr
        assert "is not up" in done.stderr
        assert "`tproxy lab up --name" in done.stderr
    status = none.run("status", check=False)
    assert (status.returncode, status.stdout) == (3, f"lab/{none.layout.name} is down\n")


@pytest.mark.parametrize(
    ("verb", "args"),
    [
        ("up", []),
        ("down", []),
        ("status", []),
        ("kubeconfig", []),
        ("apply", ["-f", "-"]),
        ("delete", ["-f", "-"]),
        ("exec", ["user", "--", "true"]),
        ("logs", ["web"]),
    ],
)
def test_without_root_a_sentence_and_the_command(lab: Any, verb: str, args: list[str]) -> None:
    # In a user namespace without a mapping nobody is root.
    done = lab.run(verb, *args, check=False, through=["unshare", "--user"])
    assert done.returncode == 1, done.stderr
    assert f"`tproxy lab {verb}` needs root" in done.stderr
    assert "sudo" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_api_server_can_be_away(own_lab: Any) -> None:
    """Commands, names and pods don't need it; what it knew it knows again."""
    one = own_lab("--nodes", "1", "--without-daemons")
    one.apply(one.server("web"))
    assert one.run("api-server", "stop").stdout == "api-server stopped\n"
    assert "its API server is stopped" in one.run("status").stdout
    refused = one.exec("laptop", "kubectl", "get", "pods", check=False)
    assert "refused" in refused.stderr
    answered = one.exec("user", "curl", "-s", "--max-time", "5", "http://web.default.svc.cluster.local/")
    assert answered.stdout.startswith("web-")
    one.apply(one.server("other"))
    assert one.run("api-server", "stop").stdout == "api-server stopped\n"
    assert one.run("api-server", "start").stdout == "api-server started\n"
    assert one.run("api-server", "start").stdout == "api-server started\n"
    listed = one.exec("laptop", "kubectl", "get", "deployments", "-o", "name").stdout.split()
    assert listed == ["deployment.apps/other", "deployment.apps/web"]
