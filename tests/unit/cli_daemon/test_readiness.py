"""When an intercept counts as live, and what is missing otherwise."""

from tproxy_cli.daemon.readiness import judge

from tproxy.model.intercept import Intercept, InterceptPort, NodeState, NodeStatus, PodStatus, Target
from tproxy.model.pod import Pod


def _pod(name: str, node: str = "node1", phase: str = "Running", deleting: bool = False) -> Pod:
    return Pod("shop", name, f"uid-{name}", node=node, phase=phase, deleting=deleting)


def _intercept(nodes: dict[str, NodeStatus]) -> Intercept:
    return Intercept(
        "shop", "web-1a2b", "uid", "s", "s-uid", Target("Deployment", "web"), (InterceptPort(80),), nodes=nodes
    )


def _node(state: NodeState, *pods: str, reason: str = "", message: str = "") -> NodeStatus:
    return NodeStatus(
        state, reason, message, tuple(PodStatus(name, f"uid-{name}", state, reason, message) for name in pods)
    )


def test_live_when_every_running_pod_is_ready() -> None:
    pods = [_pod("a"), _pod("b", "node2")]
    intercept = _intercept({"node1": _node(NodeState.READY, "a"), "node2": _node(NodeState.READY, "b")})
    verdict = judge(pods, intercept, {})
    assert verdict.live
    assert verdict.ready == 2


def test_pods_that_do_not_run_are_not_waited_for() -> None:
    pods = [
        _pod("a"),
        _pod("b", phase="Pending"),
        _pod("c", deleting=True),
        _pod("d", node=""),
        _pod("e", phase="Failed"),
    ]
    verdict = judge(pods, _intercept({"node1": _node(NodeState.READY, "a")}), {})
    assert [pod.name for pod in verdict.pods] == ["a"]
    assert verdict.live


def test_no_pod_at_all_is_live() -> None:
    assert judge([], None, {}).live


def test_a_new_pod_of_the_same_name_is_not_the_old_one() -> None:
    old = NodeStatus(NodeState.READY, pods=(PodStatus("a", "another-uid", NodeState.READY),))
    verdict = judge([_pod("a")], _intercept({"node1": old}), {})
    assert not verdict.live
    assert verdict.missing[0].reason == "NotReported"


def test_without_a_tunnel_ready_is_not_believed() -> None:
    intercept = _intercept({"node1": _node(NodeState.READY, "a")})
    verdict = judge([_pod("a")], intercept, {"node1": "connection refused"})
    assert not verdict.live
    assert str(verdict.missing[0]) == "pod a on node1: connection refused"


def test_what_the_node_says_comes_through() -> None:
    status = _node(NodeState.CONFLICTED, "a", reason="PortTaken", message="port 80 is intercepted by web-9f of bob")
    verdict = judge([_pod("a"), _pod("b")], _intercept({"node1": status}), {"node1": "no tunnel"})
    taken = verdict.first(NodeState.CONFLICTED)
    assert taken is not None
    assert taken.message == "port 80 is intercepted by web-9f of bob"
    assert verdict.first(NodeState.REFUSED) is None
