"""Answers for people: what stands out, what is said of nothing, and that nobody's text moves the terminal."""

from typing import Any

from tproxy.debug import show_flows, show_offline, show_status, show_why

NODE = {
    "name": "node1", "version": "0.1.0", "pid": 7, "upSeconds": 61, "backend": "sk_lookup", "kernel": "6.18",
    "python": "3.11", "waitsFor": "", "pods": 1, "connections": {"laptop": 2, "app": 1}, "full": False,
    "limits": {"sessionConnections": 4, "nodeConnections": 9, "sessionDials": 5, "nodeDials": 6},
    "leaseWorstDelaySeconds": 0.01,
}  # fmt: skip
OWNER = {"intercept": "shop/web", "user": "ada", "host": "laptop", "since": None, "match": ""}
POD: dict[str, Any] = {
    "pod": "shop/web-1", "uid": "uid-1", "steered": True, "netns": 4026, "acceptQueueOverflows": 3,
    "ports": [{"port": 8080, "protocol": "TCP", "owners": [OWNER], "speaks": "", "app": [
        {"address": "::", "queue": 0, "limit": 5}], "kernel": {"steered": 3, "own": 1, "lease_expired": 0}}],
    "attachments": [{"backend": "sk_lookup", "name": "link 1", "protocol": "TCP", "attached": True,
                     "leaseSeconds": 1.2}],
    "listeners": [{"address": "127.0.0.1:40000", "queue": 0, "limit": 4096}], "differences": [],
}  # fmt: skip
TUNNEL = {"session": "shop/s", "user": "ada", "host": "laptop", "connections": 1, "rttSeconds": 0.002,
          "bytesReceived": 2048, "bytesSent": 1, "bytesQueued": 0, "creditHeld": 5, "creditGiven": 6,
          "waitingForCredit": 0, "oldestSeconds": 0, "quietSeconds": 0.5, "software": "0.1.0"}  # fmt: skip
FLOW: dict[str, Any] = {
    "number": 1, "pod": "shop/web-1", "protocol": "TCP", "client": "10.0.0.9:1", "destination": "10.0.0.1:8080",
    "decision": "laptop", "reason": "intercept", "intercept": "shop/web", "user": "ada", "state": "open",
    "began": "2026-11-25T10:11:12.345+00:00", "seconds": 1.5, "received": 100, "sent": 2048, "end": "",
    "tunnelQueued": 0, "tunnelCredit": 5,
}  # fmt: skip


def test_a_node_that_is_well() -> None:
    text = show_status.text([{"node": NODE}, {"tunnel": TUNNEL}, {"pod": POD}])
    assert "node node1: version 0.1.0, process 7, up 1m1s, steers by sk_lookup, Linux 6.18" in text
    assert "2 connections with laptops, 1 with apps, of 9 at most; pods steered: 1" in text
    (line,) = [line for line in text.splitlines() if line.startswith("shop/web-1")]
    assert line.split() == [
        "shop/web-1",
        "8080",
        "ada@laptop",
        "shop/web",
        "all",
        "<none>",
        *["3", "1", "0", "1.2s", "ok"],
    ]
    wide = show_status.text([{"node": NODE}, {"tunnel": TUNNEL}, {"pod": POD}], wide=True)
    assert "link 1 of sk_lookup for TCP in network namespace 4026" in wide
    assert "accept queues have overflowed 3 times in this pod" in wide


def test_nothing_is_said_in_words() -> None:
    text = show_status.text([{"node": NODE}])
    assert "no tunnels: no laptop is connected to this node" in text
    assert "no pod is steered" in text
    assert show_flows.text([]) == "no connections: nothing has come to an intercepted port here"


def test_differences_and_lost_tunnels_stand_out() -> None:
    pod = {**POD, "differences": ["the lease has run out\x1b[2J"]}
    lost = {**{name: TUNNEL[name] for name in ("session", "user", "host")}, "lost": "silent", "lostSeconds": 61}
    text = show_status.text([{"tunnel": lost}, {"pod": pod}], mark=str.upper)
    assert "shop/web-1: DIFFERS: the lease has run out?[2J" in text
    assert "shop/s: no tunnel for 1m1s: silent" in text
    assert text.splitlines()[-2].endswith("DIFFERS")


def test_what_an_open_connection_waits_for() -> None:
    assert show_flows.row({"flow": FLOW})[-1] is None
    quiet, queued = {**FLOW, "tunnelQuietSeconds": 0.4}, {"tunnelQueued": 2048}
    for flow, what, seconds, said in (
        (quiet | queued, "tunnel", None, "2.0KiB wait for the tunnel"),
        (quiet | queued, "local-app", None, "2.0KiB wait for the local app to read"),
        (quiet, "laptop", 0.6, "waits for the laptop to open it, 0.6 s so far"),
        (quiet, "answer", 61.04, "no answer for 61.0 s"),
        (quiet | {"tunnelQuietSeconds": 3.5}, "laptop", 3.5, "waits for the laptop, which has said nothing for 3.5 s"),
    ):
        row = show_flows.row({"flow": flow | {"waits": {"for": what, "seconds": seconds}}})
        assert (row[1], row[-1]) == ("waiting", said)
    text = show_flows.text([{"flow": FLOW}, {"staying": {"pod": "a/b", "port": 1, "connections": 2, "why": "no HTTP"}}])
    assert "a/b: connections to port 1 still with the app, from before its intercept: 2 (no HTTP)" in text
    assert show_flows.line(show_flows.row({"flow": FLOW})).startswith("10:11:12.345   open")
    [followed] = show_flows.event({"flow": FLOW | {"end": "client is gone"}})
    assert followed.endswith("client is gone")
    assert list(show_flows.event({"lost": 3})) == ["3 events were lost: they came faster than they were taken"]
    assert len(list(show_flows.event({"staying": {"pod": "a/b", "port": 1, "connections": 2, "why": "no HTTP"}}))) == 1


def test_a_port_that_nothing_has_come_to() -> None:
    port = {"pod": "a/b", "port": 90, "protocol": "TCP", "owners": [OWNER], "services": [], "elsewhere": []}
    said = "a/b: nothing has come to port 90, which shop/web of ada@laptop intercepts"
    assert show_flows.text([{"untouched": port}]).splitlines()[-1] == said
    wrong = {**port, "elsewhere": ["Service web sends to 80"]}
    (line,) = show_flows.remarks_of({"untouched": wrong})
    assert line == f"{said}; no Service sends to it: Service web sends to 80"
    assert list(show_flows.remarks_of({"untouched": {**wrong, "services": ["other"]}})) == [said]


def test_requests_name_their_intercept() -> None:
    request = {
        "flow": 1, "pod": "shop/web-1", "client": "c", "destination": "d", "outcome": "fallback",
        "intercept": "shop/web", "user": "ada", "status": 200, "at": FLOW["began"], "seconds": 0.2,
    }  # fmt: skip
    row = show_flows.row({"request": request})
    assert row[5:8] == ["app", "fallback", "shop/web"]
    assert row[-1] == "status 200"


def test_why_ends_with_a_sentence() -> None:
    answer: list[dict[str, Any]] = [
        {"step": {"name": "pod", "outcome": "ok", "text": "runs"}},
        {"step": {"name": "intercept", "outcome": "no", "text": "none\x07"}},
        {"verdict": {"goes": "app", "text": "nobody intercepts it", "remedy": "do"}},
    ]
    assert show_why.text(answer) == "  ok    pod        runs\n  no    intercept  none?\n\nNobody intercepts it"
    assert show_why.verdict(answer)["remedy"] == "do"
    assert show_why.verdict([]) == {}


def test_what_the_kernel_holds_without_a_daemon() -> None:
    held = {"netns": 1, "pod": "uid", "host": "web-1", "backend": "sk_lookup", "name": "link 1", "protocol": "TCP",
            "attached": True, "leaseSeconds": -4.0, "listeners": [],
            "ports": [{"port": 80, "kernel": {"steered": 2}}]}  # fmt: skip
    text = show_offline.text([{"daemon": {}}, {"held": held}], ["sentence"])
    assert text.splitlines()[1].split() == ["1", "web-1", "sk_lookup", "link_1", "TCP", "80", "2", "over_for_4s", "yes"]
    assert show_offline.text([], ["sentence"]) == "sentence"
