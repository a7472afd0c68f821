"""`tproxy doctor` against a real API server, that of the lab."""

import json
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from tproxy_cli import roles
from tproxy_cli.daemon import dial
from tproxy_cli.doctor import cluster, laptop, nodes
from tproxy_cli.doctor.finding import TPROXY, Finding, failed
from tproxy_cli.doctor.surroundings import ENFORCE

from tests.unit.cli.api_server import api_server, kubeconfig
from tests.unit.cli.fakes import FakeDaemon, Outcome
from tproxy.errors import TproxyError
from tproxy.kube.port import ENDPOINTSLICES, NAMESPACES, NODES, PODS
from tproxy.lab.api.resources import builtin_kinds, custom_kinds
from tproxy.lab.api.store import Store
from tproxy.model.direct import DirectWay
from tproxy.rpc import certificate

Tproxy = Callable[..., Outcome]
Json = dict[str, Any]


def daemon_pod(node: str, ready: bool = True, version: str = "") -> Json:
    """The node daemon's pod on `node`."""
    labels = {"app.kubernetes.io/name": "tproxy", "app.kubernetes.io/component": "node"}
    return {
        "metadata": {
            "name": f"tproxy-node-{node}",
            "namespace": nodes.SYSTEM_NAMESPACE,
            "labels": labels | ({nodes.VERSION_LABEL: version} if version else {}),
        },
        "spec": {"nodeName": node, "containers": [{"name": "node", "image": "tproxy-node"}]},
        "status": {
            "phase": "Running",
            "podIP": "10.244.1.2",
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        },
    }


ENDPOINTS = ({"addresses": ["10.244.1.3"]}, {"addresses": ["10.244.2.3"], "conditions": {"ready": True}})


def filled(
    *pods: Json,
    names: Sequence[str] = ("node1", "node2"),
    kernel: str = "6.1.0-13-amd64",
    runtime: str = "containerd://1.7.2",
    level: str = "privileged",
    endpoints: Sequence[Json] = ENDPOINTS,
) -> Callable[[Store], None]:
    """Two nodes and these pods, in surroundings as they should be."""

    def fill(store: Store) -> None:
        for node in names:
            info = {"kernelVersion": kernel, "containerRuntimeVersion": runtime}
            store.create(NODES, {"metadata": {"name": node}})
            store.patch(NODES, node, {"status": {"nodeInfo": info}}, subresource="status")
        store.patch(NAMESPACES, nodes.SYSTEM_NAMESPACE, {"metadata": {"labels": {ENFORCE: level}}})
        name, service = "kube-dns-x7", {"kubernetes.io/service-name": "kube-dns"}
        dns_slice = {"metadata": {"name": name, "labels": service}, "addressType": "IPv4", "endpoints": list(endpoints)}
        store.create(ENDPOINTSLICES, dns_slice, "kube-system")
        for pod in pods:
            status = pod.pop("status")
            store.create(PODS, pod, nodes.SYSTEM_NAMESPACE)
            store.patch(PODS, pod["metadata"]["name"], {"status": status}, nodes.SYSTEM_NAMESPACE, "status")

    return fill


def checks(got: Outcome) -> dict[str, tuple[str, str]]:
    """Outcome and text by category and name."""
    return {f"{one['category']}/{one['name']}": (one["outcome"], one["text"]) for one in json.loads(got.out)["checks"]}


def test_all_is_well(tproxy: Tproxy, daemon: FakeDaemon, tmp_path: Path) -> None:
    pods = daemon_pod("node1", version="0.1.0"), daemon_pod("node2")
    with api_server([*builtin_kinds(), *custom_kinds()], filled(*pods)) as server:
        config = kubeconfig(tmp_path / "config", server, "admin")
        got = tproxy("doctor", "--kubeconfig", config)
    lines = got.out.splitlines()
    assert got.code == 0, got.out
    assert lines[0] == "laptop"
    words = [line.split(maxsplit=2) for line in lines]
    assert ["pass", "daemon", "running, version 0.1.0"] in words
    assert ["pass", "kubeconfig", 'context "lab", namespace "shop"'] in words
    assert ["pass", "rights-to-intercept", '10 of 10 rights in namespace "shop"'] in words
    assert ["pass", "node-daemons", "ready on 2 of 2 nodes"] in words
    assert ["pass", "kernels", "6.1.0-13-amd64"] in words
    assert ["pass", "runtimes", "containerd://1.7.2"] in words
    assert ["pass", "dns", "Service kube-dns is answered by 2 addresses"] in words
    assert ["pass", "pod-security", 'namespace "tproxy-system" admits node daemons'] in words
    assert lines[-1].endswith(" checks: all passed")


def test_a_developer_need_not_see_nodes(tproxy: Tproxy, tmp_path: Path) -> None:
    with api_server([*builtin_kinds(), *custom_kinds()], filled(daemon_pod("node1"))) as server:
        got = tproxy("doctor", "--kubeconfig", kubeconfig(tmp_path / "config", server, "alice"), "-o", "json")
    found = checks(got)
    assert got.code == 0, got.out
    assert found["cluster/user"] == ("pass", "alice")
    assert found["cluster/rights-to-reach-nodes"][0] == "pass"
    assert found["tproxy/node-daemons"] == ("pass", "ready on 1 node")
    for name in ("cluster/kernels", "cluster/runtimes", "tproxy/pod-security"):
        assert found[name][0] == "skip"
        assert found[name][1].startswith("not looked at: you may not read ")


def test_missing_rights_are_named_with_one_remedy(tproxy: Tproxy, tmp_path: Path) -> None:
    with api_server([*builtin_kinds(), *custom_kinds()], filled(daemon_pod("node1"))) as server:
        got = tproxy("doctor", "--kubeconfig", kubeconfig(tmp_path / "config", server, "nobody"))
    assert got.code == 1
    assert (
        'you lack 10 of 10 rights in namespace "shop": create, patch, delete, list sessions.tproxy.dev; '
        "create, patch, delete, list, watch intercepts.tproxy.dev; list pods\n"
    ) in got.out
    assert got.out.count("the chart's role tproxy-developer there (value `rbac.developers`)") == 1
    assert "`kubectl auth can-i --list -n shop` shows" in got.out
    assert 'you lack 3 of 3 rights in namespace "tproxy-system": list pods; get, create pods/portforward\n' in got.out
    assert got.out.count("the chart's role tproxy-reach-nodes there") == 1


def test_a_single_missing_right_is_named_with_how_to_check() -> None:
    message, remedy = roles.all_denied([("create", PODS, "portforward")], 3, "tproxy-system", roles.REACH_NODES)
    assert message == 'you may not create pods/portforward in namespace "tproxy-system"'
    assert "`kubectl auth can-i create pods --subresource=portforward -n tproxy-system` shows" in remedy


def test_a_cluster_without_tproxy(tproxy: Tproxy, tmp_path: Path) -> None:
    with api_server(builtin_kinds(), filled()) as server:
        got = tproxy("doctor", "--kubeconfig", kubeconfig(tmp_path / "config", server, "admin"), "-o", "json")
    found = checks(got)
    assert got.code == 1
    assert found["tproxy/kinds"] == (
        "fail",
        "tproxy is not installed: the cluster does not serve tproxy.dev/v1alpha1",
    )
    assert found["tproxy/node-daemons"] == ("fail", 'no node daemon in namespace "tproxy-system"')
    assert json.loads(got.out)["failed"] == 2


@pytest.mark.parametrize("outcome", ["warn", "fail"])
def test_whatever_is_wrong_has_a_remedy(outcome: Literal["warn", "fail"]) -> None:
    assert "gather-logs" in failed(TPROXY, "anything", TproxyError("it broke"), outcome).hint
    assert failed(TPROXY, "anything", TproxyError("it broke", "mend it"), outcome).hint == "mend it"
    assert Finding(TPROXY, "anything", "pass", "it works").hint == ""


@pytest.mark.parametrize(
    ("what", "name", "outcome", "text"),
    [
        ({"kernel": "5.10.0-rc1"}, "cluster/kernels", "pass", "5.10.0-rc1"),
        (
            {"kernel": "5.4.0-150-generic"},
            "cluster/kernels",
            "pass",
            "older than 5.9 on node1, node2: steered there by rules, not by sk_lookup",
        ),
        (
            {"kernel": "4.19.0"},
            "cluster/kernels",
            "warn",
            "older than 5.4 on node1, node2: workloads there may not be interceptable",
        ),
        (
            {"runtime": "rkt://1.0"},
            "cluster/runtimes",
            "warn",
            "rkt://1.0 on node1, node2 is not known to work",
        ),
        (
            {"endpoints": [{"addresses": ["10.244.1.3"], "conditions": {"ready": False}}]},
            "cluster/dns",
            "warn",
            'nobody answers for Service kube-dns in namespace "kube-system": names of the cluster may not resolve',
        ),
        (
            {"level": "restricted"},
            "tproxy/pod-security",
            "fail",
            'namespace "tproxy-system" enforces level "restricted": new pods of node daemons are refused',
        ),
    ],
)
def test_what_the_cluster_stands_on(
    tproxy: Tproxy, tmp_path: Path, what: dict[str, Any], name: str, outcome: str, text: str
) -> None:
    pods = daemon_pod("node1"), daemon_pod("node2")
    with api_server([*builtin_kinds(), *custom_kinds()], filled(*pods, **what)) as server:
        got = tproxy("doctor", "--kubeconfig", kubeconfig(tmp_path / "config", server, "admin"), "-o", "json")
    assert checks(got)[name] == (outcome, text)
    hint = next(one["hint"] for one in json.loads(got.out)["checks"] if f"{one['category']}/{one['name']}" == name)
    assert bool(hint) == (outcome != "pass")
    assert got.code == (1 if outcome == "fail" else 0)


def test_node_daemons_that_are_missing_unready_or_of_another_version(tproxy: Tproxy, tmp_path: Path) -> None:
    pods = daemon_pod("node1", ready=False), daemon_pod("node2", version="0.0.9")
    with api_server([*builtin_kinds(), *custom_kinds()], filled(*pods, names=["node1", "node2", "node3"])) as server:
        got = tproxy("doctor", "--kubeconfig", kubeconfig(tmp_path / "config", server, "admin"), "-o", "json")
    found = [one for one in json.loads(got.out)["checks"] if one["category"] == "tproxy"]
    daemons = [(one["outcome"], one["text"]) for one in found if one["name"] != "pod-security"]
    assert got.code == 1
    assert daemons[1:4] == [
        ("fail", "not ready on node1: workloads there cannot be intercepted"),
        ("warn", "none on node3: workloads there cannot be intercepted"),
        ("warn", "this command is of version 0.1.0, node daemons of 0.0.9 on node2"),
    ]
    assert daemons[4] == ("pass", "port-forward: nodes are reached through the API server")
    hints = {one["text"].partition(" ")[0]: one["hint"] for one in found}
    assert "`tolerations` and `nodeSelector`" in hints["none"]
    assert hints["this"] == "`pipx install --force kube-tproxy==0.0.9` makes it theirs"
    assert daemons[5][1].startswith("reaches 1 node daemon, answered in ")


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"HTTP/1.0 503 Service Unavailable\r\n\r\n", "it is not ready"),
        (b"\r\n", "it is not ready"),
        (b"", "it closed the connection"),
        (None, "no answer within 0.2 s"),
    ],
)
def test_a_node_daemon_that_does_not_answer_through_the_api_server(
    tproxy: Tproxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes | None, text: str
) -> None:
    monkeypatch.setattr(nodes, "ANSWER_SECONDS", 0.2 if answer is None else 10.0)
    with api_server([*builtin_kinds(), *custom_kinds()], filled(daemon_pod("node1")), answer) as server:
        got = tproxy("doctor", "--kubeconfig", kubeconfig(tmp_path / "config", server, "alice"), "-o", "json")
    assert got.code == 1
    assert checks(got)["tproxy/port-forward"] == ("fail", f"to the daemon on node1: {text}")
    assert [one["hint"] for one in json.loads(got.out)["checks"] if one["outcome"] == "fail"] == [
        "see what `kubectl -n tproxy-system logs tproxy-node-node1` says"
    ]


def test_a_server_that_refuses_the_credentials(tproxy: Tproxy, tmp_path: Path) -> None:
    with api_server(builtin_kinds(), filled()) as server:
        got = tproxy("doctor", "--kubeconfig", kubeconfig(tmp_path / "config", server, "stranger"), "-o", "json")
    assert got.code == 1
    assert "cluster/rights" not in checks(got)
    assert checks(got)["cluster/api-server"][0] == "fail"


def test_a_server_that_is_not_there(tproxy: Tproxy, tmp_path: Path) -> None:
    config = kubeconfig(tmp_path / "config", "http://127.0.0.1:1", "admin")
    got = tproxy("doctor", "--kubeconfig", config, "-o", "name")
    assert (got.code, got.out) == (1, "cluster/api-server\n")


def test_a_server_that_does_not_answer(tproxy: Tproxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        config = kubeconfig(tmp_path / "config", f"http://127.0.0.1:{silent.getsockname()[1]}", "admin")
        found = checks(tproxy("doctor", "--kubeconfig", config, "-o", "json"))
    assert found["cluster/api-server"] == ("fail", "no answer within 0 s")


def test_no_cluster_at_all(tproxy: Tproxy) -> None:
    got = tproxy("doctor", "-o", "json")
    assert got.code == 1
    assert checks(got)["cluster/kubeconfig"] == ("fail", "no cluster is configured")


def test_a_daemon_of_another_version_is_a_warning(daemon: FakeDaemon) -> None:
    daemon.answers["/v1/version"] = [{"result": {"version": "9.9.9"}}]
    found = laptop.daemon()
    assert (found.outcome, found.text) == ("warn", "is of version 9.9.9, this command of version 0.1.0")


def test_places_that_are_not_safe_fail(home: Path) -> None:
    (home / "run" / "tproxy").mkdir()
    (home / "run" / "tproxy").chmod(0o777)
    outcomes = {finding.name: finding for finding in laptop.check()}
    assert outcomes["runtime-directory"].outcome == "fail"
    assert "chmod 700" in outcomes["runtime-directory"].hint
    assert outcomes["daemon"].outcome == "fail"


def test_the_daemon_looks_for_node_daemons_where_we_do() -> None:
    assert dial.SYSTEM_NAMESPACE == nodes.SYSTEM_NAMESPACE
    assert dial.NODE_DAEMON_LABELS == nodes.NODE_DAEMON_LABELS


def exposed(node: str, address: str) -> Json:
    """The daemon's pod on `node`, exposed at `address`."""
    pod = daemon_pod(node)
    host, _, port = address.rpartition(":")
    pod["metadata"]["annotations"] = DirectWay(host, int(port), certificate.make().der).annotations()
    return pod


@pytest.mark.parametrize(("flags", "outcome", "code"), [((), "warn", 0), (("--transport", "direct"), "fail", 1)])
def test_daemons_that_are_exposed_but_out_of_reach(
    tproxy: Tproxy, tmp_path: Path, flags: tuple[str, ...], outcome: str, code: int
) -> None:
    """That only matters to who goes that way."""
    pod = exposed("node1", "127.0.0.1:1")
    with api_server([*builtin_kinds(), *custom_kinds()], filled(pod, names=["node1"])) as server:
        got = tproxy("doctor", "--kubeconfig", kubeconfig(tmp_path / "config", server, "admin"), "-o", "json", *flags)
    text = "cannot reach the node daemon on node1 at 127.0.0.1:1: connection refused"
    assert checks(got)["tproxy/direct"] == (outcome, text)
    assert checks(got)["tproxy/transport"][1].startswith("direct: " if flags else "port-forward: ")
    assert got.code == code


def test_who_goes_directly_needs_daemons_that_are_exposed_and_no_port_forwards(
    tproxy: Tproxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "ANSWER_SECONDS", 0.2)
    kinds = [*builtin_kinds(), *custom_kinds()]
    with api_server(kinds, filled(daemon_pod("node1"), names=["node1"]), answer=None) as server:
        config = kubeconfig(tmp_path / "config", server, "admin")
        got = tproxy("doctor", "--kubeconfig", config, "-o", "json", "--transport", "direct")
    assert checks(got)["tproxy/direct"] == ("fail", "no node daemon is exposed")
    assert checks(got)["tproxy/port-forward"][0] == "warn"
    assert got.code == 1
