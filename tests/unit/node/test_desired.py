"""What pods should look like and what owners are told."""

from dataclasses import replace

import pytest
from tproxy_node.desired import Failure, Route, Staying, View, desire, of_protocol

from tests.unit.node.objects import intercept, pod, session
from tproxy.model.intercept import InterceptPort, NodeState, Target
from tproxy.model.match import HeaderMatch, Match
from tproxy.model.pod import Pod, Service, ServicePort

ALICE = Route("uid-web-1a2b", "uid-alice", "shop/web-1a2b", host="alice-laptop")
WEB = InterceptPort(80)
CHAIN = {f"uid-web-{n}": [("Deployment", "web")] for n in range(1, 4)}


def view(**changes: object) -> View:
    base = View(
        pods=[pod()],
        chains=CHAIN,
        sessions=[session()],
        intercepts=[intercept()],
        live=frozenset({"uid-alice"}),
    )
    return replace(base, **changes)


def verdict(seen: View, uid: str = "uid-web-1a2b") -> tuple[NodeState, str]:
    status = desire(seen).statuses[uid]
    return status.state, status.reason


def test_a_live_intercept_gets_its_pods() -> None:
    found = desire(view(pods=[pod(), pod("web-2"), pod("other", owner="db")]))
    assert found.routes == {"uid-web-1": {WEB: ALICE}, "uid-web-2": {WEB: ALICE}}
    status = found.statuses["uid-web-1a2b"]
    assert [(one.name, one.reason) for one in status.pods] == [("web-1", "Attaching"), ("web-2", "Attaching")]


def test_ready_only_when_steered() -> None:
    found = desire(view(pods=[pod(), pod("web-2")], steered={"uid-web-1": {WEB: ALICE}}))
    status = found.statuses["uid-web-1a2b"]
    assert [one.state for one in status.pods] == [NodeState.READY, NodeState.PENDING]
    assert status.state is NodeState.PENDING
    both = desire(view(pods=[pod()], steered={"uid-web-1": {WEB: ALICE}}))
    assert both.statuses["uid-web-1a2b"].state is NodeState.READY


def test_no_pods_here_no_entry() -> None:
    found = desire(view(pods=[pod("other", owner="db")]))
    assert found.routes == {}
    assert found.statuses == {}


def test_without_a_tunnel_nothing_is_steered() -> None:
    seen = view(live=frozenset())
    assert desire(seen).routes == {}
    assert verdict(seen) == (NodeState.PENDING, "NoTunnel")


@pytest.mark.parametrize(
    ("changed", "state", "reason"),
    [
        (pod(host_network=True), NodeState.REFUSED, "HostNetwork"),
        (pod(runtime_class="gvisor"), NodeState.REFUSED, "SandboxedRuntime"),
        (pod(runtime_class="kata-qemu"), NodeState.REFUSED, "SandboxedRuntime"),
        (pod(phase="Pending"), NodeState.PENDING, "PodNotRunning"),
        (pod(addresses=()), NodeState.PENDING, "PodNotRunning"),
    ],
)
def test_pods_that_cannot_be_steered(changed: Pod, state: NodeState, reason: str) -> None:
    seen = view(pods=[changed])
    assert desire(seen).routes == {}
    assert verdict(seen) == (state, reason)
    assert desire(seen).statuses["uid-web-1a2b"].message


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_finished_pods_are_not_mentioned(phase: str) -> None:
    found = desire(view(pods=[pod(phase=phase)]))
    assert (found.routes, found.statuses) == ({}, {})


def test_a_pod_on_its_way_out_is_kept_but_not_begun() -> None:
    going = pod(deleting=True)
    assert desire(view(pods=[going])).statuses == {}
    kept = desire(view(pods=[going], steered={"uid-web-1": {WEB: ALICE}}))
    assert kept.routes == {"uid-web-1": {WEB: ALICE}}


def test_what_this_version_cannot_do_is_refused() -> None:
    assert verdict(view(intercepts=[intercept(protocol="SCTP")])) == (NodeState.REFUSED, "ProtocolUnsupported")
    personal = intercept(protocol="UDP", match=Match(method="GET"))
    assert verdict(view(intercepts=[personal])) == (NodeState.REFUSED, "MatchUnsupported")


def test_the_session_must_be_the_very_one() -> None:
    renamed = view(sessions=[session(uid="another")], live=frozenset({"another"}))
    assert verdict(renamed) == (NodeState.PENDING, "NoSession")
    assert desire(renamed).routes == {}


def test_an_intercept_being_left_counts_no_more() -> None:
    found = desire(view(intercepts=[intercept(deleting=True)], steered={"uid-web-1": {WEB: ALICE}}))
    assert (found.routes, found.statuses) == ({}, {})


def test_a_failure_is_the_pods_reason() -> None:
    seen = view(failures={"uid-web-1": Failure("NoProcess", "the pod has no running process")})
    assert verdict(seen) == (NodeState.PENDING, "NoProcess")


def test_namespaces_do_not_mix() -> None:
    assert desire(view(pods=[pod(namespace="bank")])).statuses == {}


def test_targets_by_service_and_by_pod() -> None:
    front = Service("shop", "front", {"app": "web"})
    by_service = view(intercepts=[intercept(target=Target("Service", "front"))], services=[front], chains={})
    assert desire(by_service).routes == {"uid-web-1": {WEB: ALICE}}
    by_pod = view(pods=[pod(), pod("web-2")], intercepts=[intercept(target=Target("Pod", "web-2"))], chains={})
    assert desire(by_pod).routes == {"uid-web-2": {WEB: ALICE}}


class TestConflicts:
    """Two intercepts want the same port of one pod."""

    both = view(
        sessions=[session(), session("bob")],
        intercepts=[intercept(), intercept("web-3c4d", of="bob", minute=5)],
        live=frozenset({"uid-alice", "uid-bob"}),
    )

    def test_the_older_wins_and_the_other_is_told(self) -> None:
        found = desire(self.both)
        assert found.routes == {"uid-web-1": {WEB: ALICE}}
        status = found.statuses["uid-web-3c4d"]
        assert (status.state, status.reason) == (NodeState.CONFLICTED, "PortTaken")
        assert status.message == (
            "port 80 is intercepted by web-1a2b of alice on alice-laptop since 2026-05-01T12:00:00+00:00"
        )

    def test_the_holder_stays(self) -> None:
        bobs = Route("uid-web-3c4d", "uid-bob", "shop/web-3c4d", host="bob-laptop")
        found = desire(replace(self.both, steered={"uid-web-1": {WEB: bobs}}))
        assert found.routes == {"uid-web-1": {WEB: bobs}}
        assert found.statuses["uid-web-1a2b"].state is NodeState.CONFLICTED

    def test_the_live_one_goes_before_the_older(self) -> None:
        found = desire(replace(self.both, live=frozenset({"uid-bob"})))
        assert found.routes["uid-web-1"][WEB].name == "shop/web-3c4d"
        assert found.statuses["uid-web-1a2b"].state is NodeState.CONFLICTED

    def test_nobody_connected_nothing_decided(self) -> None:
        found = desire(replace(self.both, live=frozenset()))
        assert {status.reason for status in found.statuses.values()} == {"NoTunnel"}

    def test_all_ports_or_none(self) -> None:
        wide = intercept("web-3c4d", of="bob", minute=5, ports=(80, 443))
        found = desire(replace(self.both, intercepts=[intercept(), wide]))
        assert found.routes == {"uid-web-1": {WEB: ALICE}}

    def test_different_ports_share_a_pod(self) -> None:
        other = intercept("web-3c4d", of="bob", ports=(443,))
        found = desire(replace(self.both, intercepts=[intercept(), other]))
        assert {port: route.session for port, route in found.routes["uid-web-1"].items()} == {
            WEB: "uid-alice",
            InterceptPort(443): "uid-bob",
        }


def test_personal_intercepts_share_a_port_in_order() -> None:
    ada = intercept("ada", match=Match(method="GET"))
    eve = intercept("eve", of="bob", match=Match((HeaderMatch("x-user", "eve"),), method="POST"))
    seen = view(
        intercepts=[intercept(), ada, eve],
        sessions=[session(), session("bob")],
        live=frozenset({"uid-alice", "uid-bob"}),
    )
    route = desire(seen).routes["uid-web-1"][WEB]
    assert [choice.name for _, choice in route.personal] == ["shop/eve", "shop/ada"]
    assert (route.intercept, str(route)) == (ALICE.intercept, "shop/eve+shop/ada+shop/web-1a2b")
    # One whose laptop is away is no part of it, and alone it is no reason to be in the way.
    away = replace(seen, live=frozenset({"uid-bob"}))
    assert [choice.name for _, choice in desire(away).routes["uid-web-1"][WEB].personal] == ["shop/eve"]
    assert desire(away).routes["uid-web-1"][WEB].intercept == ""
    assert desire(replace(seen, live=frozenset())).routes == {}


def test_a_personal_intercept_is_ready_whatever_others_do() -> None:
    ada = intercept("ada", match=Match(method="GET"))
    alone = view(intercepts=[ada])
    steered = desire(alone).routes
    assert verdict(alone, ada.uid) == (NodeState.PENDING, "Attaching")
    joined = view(intercepts=[ada, intercept()], steered=steered)
    assert verdict(joined, ada.uid) == (NodeState.READY, "")
    assert verdict(joined) == (NodeState.PENDING, "Attaching")


def test_datagrams_have_ports_of_their_own() -> None:
    other = intercept("dns-3c4d", of="bob", protocol="UDP")
    seen = view(sessions=[session(), session("bob")], live=frozenset({"uid-alice", "uid-bob"}))
    found = desire(replace(seen, intercepts=[intercept(), other])).routes["uid-web-1"]
    assert {str(port): route.session for port, route in found.items()} == {"80": "uid-alice", "80/udp": "uid-bob"}
    assert list(of_protocol(found, "UDP")) == [80]


def test_what_stays_with_the_app_is_said_of_ready_pods() -> None:
    staying = {"uid-web-1": {80: Staying(3, "why"), 81: Staying(1, "not ours")}}
    ready = desire(view(steered={"uid-web-1": {WEB: ALICE}}, staying=staying)).statuses["uid-web-1a2b"].pods[0]
    assert (ready.connections, ready.staying) == (3, "why")
    pending = desire(view(staying=staying)).statuses["uid-web-1a2b"].pods[0]
    assert (pending.connections, pending.staying) == (0, "")


def test_routes_know_what_connections_from_before_shall_do_and_what_the_port_speaks() -> None:
    service = Service("shop", "web", {"app": "web"}, (ServicePort("grpc", 80, 80),))
    wanted = replace(intercept(), existing="reset", drain_seconds=5)
    route = desire(view(intercepts=[wanted], services=[service])).routes["uid-web-1"][WEB]
    assert (route.existing, route.drain_seconds, route.speaks) == ("reset", 5, "grpc")
