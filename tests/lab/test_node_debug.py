"""`tproxy node` and `python -m tproxy_node debug`: who may ask what, and what is said of a hung or dead daemon."""

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from tests.lab.conftest import environment
from tests.lab.laptop import TPROXY
from tests.lab.scene import PORT, Scene, deployment, playing
from tproxy.model.session import SYSTEM_NAMESPACE


def debug(lab: Any, node: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m tproxy_node debug` on the machine that the lab's nodes are."""
    asked = ("--socket", str(lab.layout.daemon_socket(node)), *arguments)
    command = [sys.executable, "-m", "tproxy_node", "debug", asked[2], *asked[:2], *asked[3:]]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment(), check=False)


def lines(answer: list[Any], name: str) -> list[Any]:
    return [one[name] for one in answer if name in one]


def test_status_is_what_the_kernel_has(scene: Scene) -> None:
    with scene.intercepted():
        assert scene.seen() == "laptop"
        nodes = {one["node"] for one in scene.json("node", "ls")["nodes"]}
        pods = {}
        for pod in scene.pods():
            assert pod["node"] in nodes
            answer = scene.json("node", "status", pod["node"])
            (node,) = lines(answer, "node")
            assert (node["name"], node["pid"]) == (pod["node"], scene.daemon(pod["node"]))
            pods |= {one["pod"]: one for one in lines(answer, "pod")}
            sessions = {one["session"] for one in lines(answer, "tunnel")}
            assert any(session.startswith(f"{scene.namespace}/") for session in sessions)
        mine = [pods[f"{scene.namespace}/{pod['name']}"] for pod in scene.pods()]
        assert all(one["steered"] and not one["differences"] for one in mine)
        ports = [port for one in mine for port in one["ports"]]
        assert {port["port"] for port in ports} == {PORT}
        assert sum(port["kernel"]["steered"] for port in ports) >= 1
        assert all(owner["intercept"].startswith(f"{scene.namespace}/web") for p in ports for owner in p["owners"])
    scene.wait_seen("pod")
    status = scene.json("node", "status", scene.pods()[0]["node"])
    assert not [one for one in lines(status, "pod") if one["pod"].startswith(f"{scene.namespace}/")]


def test_flows_say_where_connections_went(scene: Scene) -> None:
    with scene.intercepted():
        for _ in range(4):
            assert scene.seen() == "laptop"
        flows = []
        for pod in scene.pods():
            answer = scene.json("node", "flows", pod["node"], "--pod", f"{scene.namespace}/{pod['name']}")
            flows += lines(answer, "flow")
        went = [one for one in flows if one["decision"] == "laptop"]
        assert len(went) >= 4
        assert all(one["reason"] == "intercept" and one["user"] for one in went)
        # Other tests were here before, whose connections may have carried nothing.
        ended = [(one["received"], one["sent"]) for one in went if one["state"] == "ended"]
        assert sum(bool(received and sent) for received, sent in ended) >= 4, ended


def test_bad_questions_get_a_sentence(scene: Scene) -> None:
    node = scene.pods()[0]["node"]
    for arguments, said in (
        (("status", "nowhere"), "no tproxy node daemon runs on node nowhere"),
        (("why", "web"), "is not [NAMESPACE/]POD:PORT"),
        (("why", "shop/none:80"), "there is no pod shop/none"),
        (("why", "a/b/c:80"), "is not [NAMESPACE/]POD:PORT"),
        (("why", f"{scene.namespace}/{scene.pods()[0]['name']}:8080", "--from", "here"), "'here' is no IP address"),
        (("why", f"{scene.namespace}/{scene.pods()[0]['name']}:8080", "--header", "x"), "'x' is not NAME=VALUE"),
        (("flows", node, "--pod", "a/b/c"), "'a/b/c' is not NAMESPACE/NAME"),
        (("flow", node), "there is no command 'flow'"),
    ):
        done = scene.tproxy("node", *arguments, check=False)
        assert done.returncode in (1, 2, 3)
        assert said in done.stderr
        assert "Traceback" not in done.stderr


def test_a_developer_is_told_of_her_own_intercepts_only(lab: Any, scene: Scene) -> None:
    """Dora may intercept in one namespace, Debbie may debug; neither may do more."""
    namespace = json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "dora"}})
    lab.apply(namespace + "\n---\n" + deployment("web", 1), "dora")
    pod = lab.ready_pod("dora", "web-")
    node, name = pod["node"], f"dora/{pod['name']}"
    other = next(each for each in scene.pods() if each["node"] == node)
    try:
        with scene.intercepted():
            refused = tproxy(lab, "dora", "node", "status", node, check=False)
            assert refused.returncode == 4
            assert "you have no intercept" in refused.stderr
            assert "tproxy-debugger" in refused.stderr
            tproxy(lab, "dora", "intercept", "web", "-p", f"3900:{PORT}", "-n", "dora")
            answer = json.loads(tproxy(lab, "dora", "node", "status", node, "-n", "dora", "-o", "json").stdout)
            assert not lines(answer, "node")
            assert [one["pod"] for one in lines(answer, "pod")] == [name]
            assert [one["user"] for one in lines(answer, "tunnel")] == ["dora"]
            lab.exec("user", "curl", "-s", "http://web.dora.svc.cluster.local/")
            assert scene.seen(url=f"http://{other['addresses'][0]}:{PORT}/") == "laptop"
            mine = json.loads(tproxy(lab, "dora", "node", "flows", node, "-n", "dora", "-o", "json").stdout)
            everything = json.loads(tproxy(lab, "debbie", "node", "flows", node, "-o", "json").stdout)
            assert {one["pod"] for one in lines(mine, "flow")} == {name}
            assert {one["pod"] for one in lines(everything, "flow")} > {name}
            why = tproxy(lab, "dora", "node", "why", f"{name}:{PORT}", "-n", "dora").stdout
            assert "goes to dora@laptop" in why
            theirs = f"{scene.namespace}/{other['name']}:{PORT}"
            assert tproxy(lab, "dora", "node", "why", theirs, "-n", "dora", check=False).returncode == 4
            assert "goes to " in tproxy(lab, "debbie", "node", "why", theirs).stdout
            traced = tproxy(lab, "dora", "node", "trace", node, "-n", "dora", check=False)
            assert traced.returncode == 4
            assert "is for node debuggers" in traced.stderr
            status = json.loads(tproxy(lab, "debbie", "node", "status", node, "-o", "json").stdout)
            assert {one["pod"] for one in lines(status, "pod")} >= {name, f"{scene.namespace}/{other['name']}"}
    finally:
        for who in ("dora", "debbie"):
            tproxy(lab, who, "quit", check=False)
        lab.run("delete", "-f", "-", "-n", "dora", text=deployment("web", 1))


def tproxy(lab: Any, who: str, *arguments: str, check: bool = True) -> Any:
    return lab.exec(f"laptop/{who}", *TPROXY, *arguments, check=check)


def test_a_daemon_that_hangs_and_one_that_is_dead(lab: Any, scene: Scene) -> None:
    pod = scene.pods()[0]
    node, daemon = pod["node"], scene.daemon(pod["node"])
    with scene.intercepted():
        answered = debug(lab, node, "status", "-o", "json")
        assert answered.returncode == 0, answered.stderr
        assert lines(json.loads(answered.stdout), "node")[0]["pid"] == daemon
        os.kill(daemon, signal.SIGSTOP)
        try:
            hung = debug(lab, node, "status")
            assert hung.returncode == 3
            assert f"(process {daemon}) has not answered for 5 s: it is stopped" in hung.stderr
            assert "--offline" in hung.stderr
            held = json.loads(debug(lab, node, "status", "--offline", "-o", "json").stdout)
            assert lines(held, "daemon") == [{"pid": daemon, "state": "is stopped"}]
            (mine,) = [one for one in lines(held, "held") if one["pod"] == pod["uid"]]
            assert (mine["backend"], mine["attached"], [one["port"] for one in mine["ports"]]) == (
                "sk_lookup",
                True,
                [PORT],
            )
            assert mine["leaseSeconds"] < 0
            assert "is stopped" in debug(lab, node, "status", "--offline").stdout
        finally:
            os.kill(daemon, signal.SIGKILL)
            os.kill(daemon, signal.SIGCONT)
        lab.wait(lambda: not alive(daemon), "the end of the daemon")
        held = json.loads(debug(lab, node, "status", "--offline", "-o", "json").stdout)
        assert not [one for one in lines(held, "held") if one["pod"] == pod["uid"] and one["name"] == mine["name"]]
        lab.wait(lambda: scene.daemon(node) != daemon, "another daemon")
        scene.wait_seen("laptop", 30)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_session_of_the_daemons_namespace_intercepts_nothing(scene: Scene) -> None:
    """Whoever may make one there may ask everything; so it is good for nothing else."""
    refused = scene.tproxy("intercept", "pod/tproxy-node-node1", "-p", "3900:4771", "-n", SYSTEM_NAMESPACE, check=False)
    assert refused.returncode != 0
    assert "nothing there is intercepted" in refused.stderr


@pytest.mark.parametrize("where", ["other_lab"], indirect=True)
def test_rules_of_a_hung_daemon_are_seen_and_steer_nothing(where: Any, namespace: str) -> None:
    with playing(where, namespace) as scene, scene.intercepted():
        assert scene.seen() == "laptop"
        pod = scene.pods()[0]
        daemon = scene.daemon(pod["node"])
        status = scene.json("node", "status", pod["node"])
        (mine,) = [one for one in lines(status, "pod") if one["uid"] == pod["uid"]]
        assert [one["backend"] for one in mine["attachments"]] == ["tproxy"]
        assert mine["differences"] == []
        os.kill(daemon, signal.SIGSTOP)
        try:
            # A connection from before the end of the lease waits for ever.
            where.wait(lambda: scene.seen("--max-time", "1") == "pod", "an answer by the pod")
            found = json.loads(debug(where, pod["node"], "status", "--offline", "-o", "json").stdout)
            (held,) = [one for one in lines(found, "held") if one["pod"] == pod["uid"]]
            assert (held["backend"], held["attached"]) == ("tproxy", True)
            assert [one["port"] for one in held["ports"]] == [PORT]
            assert held["leaseSeconds"] < 0
        finally:
            os.kill(daemon, signal.SIGCONT)
        scene.wait_seen("laptop", 30)
