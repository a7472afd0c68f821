"""What commands ask of the daemon, and what a person gets to see."""

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from tproxy_cli.client import Daemon

from tests.unit.cli.fakes import FakeDaemon, Outcome

Tproxy = Callable[..., Outcome]
Json = dict[str, Any]

RESULT: Json = {
    "name": "web-3f2a",
    "namespace": "shop",
    "target": "Deployment/web",
    "ports": [{"local": 3000, "remote": 80, "protocol": "TCP"}],
    "pods": [
        {"name": "web-7d9f-abcde", "node": "node1", "state": "Ready", "reason": "", "message": ""},
        {"name": "web-7d9f-fghij", "node": "node2", "state": "Ready", "reason": "", "message": ""},
    ],
    "seconds": 0.3,
    "warnings": [],
}
NOWHERE = {"kubeconfig": None, "context": None, "namespace": None}


def listed(**changes: Any) -> Json:
    """An intercept as the daemon lists it."""
    created = (datetime.now(UTC) - timedelta(minutes=5, seconds=10)).isoformat().replace("+00:00", "Z")
    return {
        "namespace": "shop",
        "name": "web-3f2a",
        "target": "Deployment/web",
        "ports": [{"remote": 80, "local": 3000, "protocol": "TCP"}],
        "user": "alice",
        "host": "thinkpad",
        "mine": True,
        "state": "Ready",
        "reason": "",
        "message": "",
        "pods": {"ready": 2, "total": 2},
        "nodes": [{"node": "node1", "state": "Ready", "reason": "", "message": "", "pods": []}],
        "created": created,
    } | changes


def test_intercept_says_what_goes_where_and_how_to_leave(tproxy: Tproxy, daemon: FakeDaemon) -> None:
    daemon.answers["/v1/intercept"] = [{"progress": "waiting for 2 pods"}, {"result": RESULT}]
    got = tproxy("intercept", "web", "--port", "3000:80", "-n", "shop", "--timeout", "5")
    assert got.code == 0
    assert re.sub(r"\d\.\d\d s", "N s", got.out) == (
        "intercept/web-3f2a created in N s\n"
        "  Deployment/web port 80 -> localhost:3000\n"
        "  from pod web-7d9f-abcde on node1\n"
        "  from pod web-7d9f-fghij on node2\n"
    )
    assert got.err == "waiting for 2 pods\n\nTo give it back: `tproxy leave web-3f2a -n shop`\n"
    assert daemon.bodies("/v1/intercept") == [
        {
            "cluster": NOWHERE | {"namespace": "shop"},
            "target": "web",
            "ports": ["3000:80"],
            "http": {
                "headers": [],
                "baggage": [],
                "path": "",
                "pathPrefix": "",
                "pathRegex": "",
                "method": "",
            },
            "onRefused": "fail",
            "onDisconnect": "fallback",
            "probes": "app",
            "existing": "idle",
            "drainSeconds": 30,
            "proxyProtocol": None,
            "timeoutSeconds": 5,
        }
    ]


def test_a_personal_intercept_says_which_requests(tproxy: Tproxy, daemon: FakeDaemon) -> None:
    match = {
        "headers": [
            {"name": "x-tproxy-intercept", "type": "Exact", "value": "5f1c9a3e"},
            {"name": "x-user", "type": "RegularExpression", "value": "a.*"},
        ]
    }
    daemon.answers["/v1/intercept"] = [{"result": RESULT | {"match": match, "freshHeader": True}}]
    flags = ["--http-header", "auto", "--http-header", "X-User=~a.*", "--http-baggage", "user=ada"]
    got = tproxy("intercept", "web", "-p", "3000", *flags, "--http-path-prefix", "/api", "--fallback-when-refused")
    assert got.code == 0
    assert "  only requests with x-tproxy-intercept=5f1c9a3e and x-user=~a.*\n" in got.out
    assert "  with curl: curl -H 'x-tproxy-intercept: 5f1c9a3e' ...\n" in got.out
    assert "request headers: name x-tproxy-intercept, value 5f1c9a3e\n" in got.out
    [body] = daemon.bodies("/v1/intercept")
    assert body["http"] == {
        "headers": ["auto", "X-User=~a.*"],
        "baggage": ["user=ada"],
        "path": "",
        "pathPrefix": "/api",
        "pathRegex": "",
        "method": "",
    }
    assert body["onRefused"] == "fallback"


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--http-header", "x-user"], "error: 'x-user' is not a condition on a header\n\nhint: write NAME=VALUE"),
        (["--http-path-regex", "("], "--http-path-regex: '(' is not a regular expression: missing )"),
        (["--fallback-when-refused"], "--fallback-when-refused is for single requests"),
    ],
)
def test_what_no_request_can_be_never_reaches_the_daemon(tproxy: Tproxy, flags: list[str], sentence: str) -> None:
    got = tproxy("intercept", "web", "-p", "3000", *flags)
    assert (got.code, got.out) == (2, "")
    assert sentence in got.err


def test_intercept_passes_warnings_on_stderr(tproxy: Tproxy, daemon: FakeDaemon) -> None:
    daemon.answers["/v1/intercept"] = [{"result": RESULT | {"warnings": ["nobody listens on localhost:3000"]}}]
    got = tproxy("intercept", "web", "-p", "3000")
    assert got.code == 0
    assert "nobody" not in got.out
    assert "warning: nobody listens on localhost:3000\n" in got.err


@pytest.mark.parametrize(
    ("form", "read"), [("json", json.loads), ("yaml", yaml.safe_load), ("name", lambda text: text.strip())]
)
def test_intercept_as_data_has_nothing_else_on_stdout(
    tproxy: Tproxy, daemon: FakeDaemon, form: str, read: Callable[[str], Any]
) -> None:
    daemon.answers["/v1/intercept"] = [{"result": RESULT}]
    got = tproxy("intercept", "web", "-p", "3000", "-p", "3001:metrics", "-o", form)
    found = read(got.out)
    if form == "name":
        assert found == "intercept/web-3f2a"
    else:
        assert found.pop("seconds") > 0
        assert found == {key: value for key, value in RESULT.items() if key != "seconds"}
    assert got.err == ""
    assert daemon.bodies("/v1/intercept")[0]["ports"] == ["3000", "3001:metrics"]


def test_many_pods_are_counted_not_listed(tproxy: Tproxy, daemon: FakeDaemon) -> None:
    pods = [{"name": f"web-{i}", "node": "node1", "state": "Ready"} for i in range(30)]
    daemon.answers["/v1/intercept"] = [{"result": RESULT | {"pods": pods}}]
    assert tproxy("intercept", "web", "-p", "3000").out.endswith("  from pod web-8 on node1\n  and 21 more pods\n")


def test_a_conflict_keeps_its_exit_code(tproxy: Tproxy, daemon: FakeDaemon) -> None:
    daemon.answers["/v1/intercept"] = [
        {"error": {"message": "port 80 is intercepted by bob", "hint": "ask bob", "exitCode": 5}}
    ]
    got = tproxy("intercept", "web", "-p", "3000")
    assert (got.code, got.out, got.err) == (5, "", "error: port 80 is intercepted by bob\n\nhint: ask bob\n")


@pytest.mark.parametrize("port", ["abc", "0", "70000", "3000:", ":80", "3000:80:1", "-1", "3000:Http", ""])
def test_a_malformed_port_never_reaches_the_daemon(tproxy: Tproxy, port: str) -> None:
    got = tproxy("intercept", "web", f"--port={port}")
    assert (got.code, got.out) == (2, "")
    assert got.err.startswith(f"error: {port!r} is not a port mapping\n\nhint: write LOCAL or LOCAL:REMOTE")


def test_list_of_one_namespace(tproxy: Tproxy, daemon: FakeDaemon) -> None:
    other = listed(
        name="store-00ff",
        target="StatefulSet/store",
        ports=[{"remote": 53, "local": None, "protocol": "UDP"}, {"remote": 443, "local": None, "protocol": "TCP"}],
        user="B S",
        match={
            "headers": [
                {"name": "x-user", "type": "Exact", "value": "ada"},
                {"name": "x-team", "type": "RegularExpression", "value": "a very long one"},
            ]
        },
        state="Conflicted",
        pods={"ready": 0, "total": 1},
        nodes=[
            {
                "node": "node2",
                "state": "Conflicted",
                "pods": [{"name": "store-0", "state": "Conflicted", "message": "web-3f2a of alice has port 443"}],
            }
        ],
    )
    daemon.answers["/v1/list"] = [{"result": {"intercepts": [listed(), other]}}]
    got = tproxy("list")
    assert got.out == (
        "NAME         TARGET              PORTS        MATCH                      STATE        PODS   USER    AGE\n"
        "web-3f2a     Deployment/web      80->3000     <all>                      Ready        2/2    alice   5m10s\n"
        "store-00ff   StatefulSet/store   53/udp,443   x-user=ada,x-team=~a_ve…   Conflicted   0/1    B_S     5m10s\n"
    )
    assert got.err == "store-00ff is Conflicted: web-3f2a of alice has port 443 (store-0)\n"


def test_list_everywhere_and_wide(tproxy: Tproxy, daemon: FakeDaemon) -> None:
    match = {
        "path": {"type": "PathPrefix", "value": "/api/"},
        "baggage": [{"name": "user", "type": "Exact", "value": "Ada Lovelace"}],
        "method": "POST",
    }
    daemon.answers["/v1/list"] = [{"result": {"intercepts": [listed(match=match)]}}]
    head, row = (" ".join(line.split()) for line in tproxy("list", "-A", "-o", "wide").out.splitlines())
    assert head == "NAMESPACE NAME TARGET PORTS MATCH STATE PODS USER HOST NODES REASON AGE"
    assert row == (
        "shop web-3f2a Deployment/web 80->3000 baggage:user=Ada_Lovelace,path=/api/*,method=POST Ready 2/2"
        " alice thinkpad node1 <none> 5m10s"
    )
    assert daemon.bodies("/v1/list") == [{"cluster": NOWHERE, "allNamespaces": True}]


def test_an_empty_list_says_how_to_start(tproxy: Tproxy, daemon: FakeDaemon) -> None:
    daemon.answers["/v1/list"] = [{"result": {"intercepts": []}}]
    got = tproxy("list")
    assert (got.code, got.out) == (0, "")
    assert got.err == "no intercepts; start one with `tproxy intercept WORKLOAD --port PORT`\n"
    assert tproxy("list", "-o", "name").out == ""
    assert json.loads(tproxy("list", "-o", "json").out) == {"intercepts": []}


def test_escape_sequences_of_others_do_not_reach_the_terminal(tproxy: Tproxy, daemon: FakeDaemon) -> None:
    evil = listed(user="\x1b[2Jroot", state="Refused", nodes=[], message="\x1b]0;owned\x07 no")
    daemon.answers["/v1/list"] = [{"result": {"intercepts": [evil]}}]
    got = tproxy("list")
    assert "?[2Jroot" in got.out
    assert "\x1b" not in got.out + got.err


def status() -> Json:
    """A daemon with one node lost."""
    return {
        "daemon": {
            "pid": 4711,
            "version": "0.1.0",
            "uptimeSeconds": 190,
            "socket": "/run/user/1000/tproxy/daemon.sock",
            "log": "/home/alice/.local/state/tproxy/daemon.log",
            "state": "running",
        },
        "clusters": [
            {
                "context": "lab",
                "server": "http://10.99.0.1:6443",
                "namespace": "shop",
                "user": "alice",
                "session": "alice-9c1e",
                "nodes": [
                    {
                        "node": "node1",
                        "state": "connected",
                        "transport": "direct",
                        "rttSeconds": 0.00042,
                        "bytesIn": 1536,
                        "bytesOut": 20 << 20,
                        "connections": 3,
                        "since": None,
                        "error": None,
                    },
                    {
                        "node": "node2",
                        "state": "lost",
                        "transport": "direct",
                        "rttSeconds": None,
                        "bytesIn": 0,
                        "bytesOut": 0,
                        "connections": 0,
                        "since": None,
                        "error": "no answer for 6 s",
                    },
                ],
                "intercepts": [listed(state="Pending", nodes=[], message="waiting for node2")],
            }
        ],
    }


def test_status_shows_daemon_tunnels_and_intercepts(tproxy: Tproxy, daemon: FakeDaemon) -> None:
    daemon.answers["/v1/status"] = [{"result": status()}]
    assert tproxy("status").out == (
        "daemon: running, version 0.1.0, process 4711, up 3m10s\n"
        "\n"
        "context lab, namespace shop, at http://10.99.0.1:6443\n"
        "\n"
        "NODE    TUNNEL      TRANSPORT   RTT      CONNECTIONS   RECEIVED   SENT    AGE\n"
        "node1   connected   direct      0.42ms   3             1.5KiB     20MiB   <none>\n"
        "node2   lost        direct      <none>   0             0B         0B      <none>\n"
        "node2: no answer for 6 s\n"
        "\n"
        "NAME       TARGET           PORTS      MATCH   STATE     PODS   USER    AGE\n"
        "web-3f2a   Deployment/web   80->3000   <all>   Pending   2/2    alice   5m10s\n"
        "web-3f2a is Pending: waiting for node2\n"
    )


def test_status_shows_what_became_of_requests(tproxy: Tproxy, daemon: FakeDaemon) -> None:
    shown = status()
    requests = {"matched": 12, "passed": 3400, "fallback": 1, "failed": 0, "p50Seconds": 0.0042, "p99Seconds": None}
    shown["clusters"][0]["intercepts"] = [listed(requests=requests), listed(name="api-1", requests=None)]
    daemon.answers["/v1/status"] = [{"result": shown}]
    assert tproxy("status").out.endswith(
        "\n\n"
        "REQUESTS   MATCHED   PASSED   FALLBACK   FAILED   P50     P99\n"
        "web-3f2a   12        3400     1          0        4.2ms   <none>\n"
    )


def test_colour_is_only_added_on_request(tproxy: Tproxy, daemon: FakeDaemon) -> None:
    daemon.answers["/v1/status"] = [{"result": status()}]
    plain = tproxy("status").out
    coloured = tproxy("status", "--color", "always").out
    assert "\x1b[" not in plain
    assert "\x1b[32mconnected\x1b[0m" in coloured
    assert re.sub(r"\x1b\[\d+m", "", coloured) == plain
    assert tproxy("--color", "always", "status").out == coloured


def test_status_without_a_daemon_starts_none(tproxy: Tproxy, home: Path) -> None:
    got = tproxy("status")
    assert (got.code, got.out) == (0, "daemon: not running; it starts when it is needed\n")
    assert got.err == "no intercepts; start one with `tproxy intercept WORKLOAD --port PORT`\n"
    assert json.loads(tproxy("status", "-o", "json").out) == {"daemon": {"state": "stopped"}, "clusters": []}
    assert list((home / "run" / "tproxy").iterdir()) == []


def test_leave_names_what_was_left(tproxy: Tproxy, daemon: FakeDaemon) -> None:
    left = [{"name": "web-3f2a", "namespace": "shop", "target": "Deployment/web"}]
    daemon.answers["/v1/leave"] = [{"result": {"left": left, "seconds": 0.03}}]
    got = tproxy("leave", "web")
    assert (got.code, got.out, got.err) == (0, "intercept/web-3f2a left in 0.03 s (Deployment/web)\n", "")
    daemon.answers["/v1/leave"] = [{"result": {"left": [left[0] | {"user": "bob"}], "seconds": 0.03}}]
    got = tproxy("leave", "web-3f2a", "--force")
    assert got.out == "intercept/web-3f2a left in 0.03 s (Deployment/web, of bob)\n"
    assert daemon.bodies("/v1/leave").pop()["force"]
    assert tproxy("leave", "--all", "-o", "name").out == "intercept/web-3f2a\n"
    assert daemon.bodies("/v1/leave") == [
        {"cluster": NOWHERE, "names": ["web"], "all": False, "force": False},
        {"cluster": NOWHERE, "names": ["web-3f2a"], "all": False, "force": True},
        {"cluster": NOWHERE, "names": [], "all": True, "force": False},
    ]


def test_leave_all_of_nothing(tproxy: Tproxy, daemon: FakeDaemon) -> None:
    daemon.answers["/v1/leave"] = [{"result": {"left": [], "seconds": 0.0}}]
    got = tproxy("leave", "--all")
    assert (got.code, got.out, got.err) == (0, "", "no intercepts to leave\n")


@pytest.mark.parametrize("args", [[], ["web", "--all"], ["--all", "--force"]])
def test_leave_needs_names_or_all(tproxy: Tproxy, args: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TPROXY_ALL", "1")  # an environment must not be able to leave everything
    monkeypatch.setenv("TPROXY_EVERYTHING", "1")
    got = tproxy("leave", *args)
    assert got.code == 2
    assert "`tproxy list` shows them" in got.err


def test_quit_without_a_daemon_is_fine(tproxy: Tproxy) -> None:
    got = tproxy("quit")
    assert (got.code, got.out) == (0, "the tproxy daemon is not running\n")


@pytest.mark.parametrize(
    ("left", "text"),
    [
        (0, "the tproxy daemon has stopped\n"),
        (1, "the tproxy daemon has stopped, after leaving 1 intercept\n"),
        (2, "the tproxy daemon has stopped, after leaving 2 intercepts\n"),
    ],
)
def test_quit_waits_until_the_daemon_is_gone(
    tproxy: Tproxy, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch, left: int, text: str
) -> None:
    daemon.answers["/v1/quit"] = [{"result": {"left": left}}]
    looks = [True, True, False]
    monkeypatch.setattr(Daemon, "running", lambda _: looks.pop(0))
    got = tproxy("quit")
    assert (got.code, got.out, looks) == (0, text, [])


def test_version_of_all_parts(tproxy: Tproxy, daemon: FakeDaemon) -> None:
    nodes = [{"node": "node1", "state": "connected", "version": "0.1.0"}, {"node": "node2", "state": "connecting"}]
    daemon.answers["/v1/status"] = [{"result": {"clusters": [{"context": "lab", "nodes": nodes}]}}]
    assert tproxy("version").out == "NAME         VERSION\nclient       0.1.0\ndaemon       0.1.0\nnode/node1   0.1.0\n"
    assert json.loads(tproxy("version", "-o", "json").out) == {
        "client": "0.1.0",
        "daemon": "0.1.0",
        "nodes": [{"node": "node1", "version": "0.1.0", "context": "lab"}],
    }


def test_a_daemon_of_another_version_is_named(tproxy: Tproxy, daemon: FakeDaemon) -> None:
    daemon.answers["/v1/version"] = [{"result": {"version": "0.0.9"}}]
    daemon.answers["/v1/list"] = [{"result": {"intercepts": [listed()]}}]
    got = tproxy("list")
    assert got.code == 0
    assert got.err == (
        "warning: the tproxy daemon is of version 0.0.9, this command of version 0.1.0\n"
        "hint: `tproxy quit` stops it; the next command starts the new one\n"
    )


def test_the_cluster_is_named_by_absolute_paths(
    tproxy: Tproxy, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    daemon.answers["/v1/list"] = [{"result": {"intercepts": []}}]
    monkeypatch.setenv("KUBECONFIG", "a:~/b::/c")
    tproxy("list", "--context", "lab")
    tproxy("list", "--kubeconfig", "mine")
    first, second = (body["cluster"] for body in daemon.bodies("/v1/list"))
    assert first == {"kubeconfig": f"{tmp_path}/a:{tmp_path}/b:/c", "context": "lab", "namespace": None}
    assert second["kubeconfig"] == f"{tmp_path}/mine"


def test_the_kubeconfig_in_the_home_directory_is_named_too(
    tproxy: Tproxy, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    """Else the daemon would take the KUBECONFIG of the shell that started it: another cluster."""
    daemon.answers["/v1/list"] = [{"result": {"intercepts": []}}]
    tproxy("list")
    (home / ".kube").mkdir()
    (home / ".kube" / "config").touch()
    tproxy("list")
    monkeypatch.setenv("KUBECONFIG", "")
    tproxy("list")
    named = [body["cluster"]["kubeconfig"] for body in daemon.bodies("/v1/list")]
    assert named == [None, f"{home}/.kube/config", f"{home}/.kube/config"]


def test_intercept_says_what_is_still_with_the_app(tproxy: Tproxy, daemon: FakeDaemon) -> None:
    staying = {"connections": 2, "staying": "port 5432 is not known to speak HTTP"}
    pods = [RESULT["pods"][0] | staying, RESULT["pods"][1] | {"connections": 0, "staying": ""}]
    daemon.answers["/v1/intercept"] = [{"result": RESULT | {"pods": pods}}]
    out = tproxy("intercept", "web", "-p", "3000", "--existing", "keep", "--drain", "5").out
    assert (
        "  from pod web-7d9f-abcde on node1\n"
        "    2 connections still with the app: port 5432 is not known to speak HTTP\n"
        "  from pod web-7d9f-fghij on node2\n"
    ) in out
    body = daemon.bodies("/v1/intercept")[0]
    assert (body["existing"], body["drainSeconds"]) == ("keep", 5)


def test_list_and_status_say_what_is_still_with_the_app(tproxy: Tproxy, daemon: FakeDaemon) -> None:
    pod = {"name": "web-1", "state": "Ready", "connections": 1, "staying": "its next request comes to the laptop"}
    node = {"node": "node1", "state": "Ready", "pods": [pod, pod | {"name": "web-2"}]}
    intercept = listed(nodes=[node])
    sentence = f"{intercept['name']}: 2 connections still with the app: its next request comes to the laptop\n"
    daemon.answers["/v1/list"] = [{"result": {"intercepts": [intercept]}}]
    assert sentence in tproxy("list").err
    daemon.answers["/v1/status"] = [{"result": status()}]
    daemon.answers["/v1/status"][0]["result"]["clusters"][0]["intercepts"] = [intercept]
    assert sentence in tproxy("status").out


def test_a_capture_that_is_interrupted_before_it_begins(
    tproxy: Tproxy, daemon: FakeDaemon, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_self: Daemon, _body: Json) -> Iterator[bytes]:
        raise KeyboardInterrupt
        yield b""

    monkeypatch.setattr(Daemon, "ask", interrupted)
    monkeypatch.chdir(home)
    done = tproxy("node", "capture", "shop/web-1")
    assert (done.code, done.err) == (0, "nothing was captured\n")
    assert not (home / "web-1.pcapng").exists()
