"""The steps from what is to what should be."""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st
from tproxy_node.desired import PodRoutes, Route
from tproxy_node.plan import Attach, Attached, Detach, PodRef, plan, render

from tproxy.model.intercept import InterceptPort

A = Route("uid-a", "uid-alice", "shop/web-1a2b")
B = Route("uid-b", "uid-bob", "shop/web-3c4d")

WEB, TLS, DNS = InterceptPort(80), InterceptPort(443), InterceptPort(53, "UDP")


def ref(name: str) -> PodRef:
    return PodRef("shop", name, f"uid-{name}")


def attached(name: str, routes: PodRoutes, broken: str = "") -> Attached:
    return Attached(ref(name), routes, broken)


def by_uid(*pods: Attached) -> dict[str, Attached]:
    return {pod.pod.uid: pod for pod in pods}


def test_nothing_to_do() -> None:
    now = by_uid(attached("web-1", {WEB: A}))
    assert plan([ref("web-1"), ref("web-2")], {"uid-web-1": {WEB: A}}, now) == []


def test_golden_first_intercept() -> None:
    ops = plan([ref("web-2"), ref("web-1"), ref("db-1")], {"uid-web-1": {TLS: A, WEB: A}, "uid-web-2": {WEB: A}}, {})
    assert (
        render(ops)
        == """\
attach shop/web-1 80->shop/web-1a2b 443->shop/web-1a2b
attach shop/web-2 80->shop/web-1a2b"""
    )


def test_golden_everything_at_once() -> None:
    """Ports are given back before anything is taken, and a moved pod is let go before it is attached again."""
    now = by_uid(
        attached("web-4", {WEB: A}),
        attached("web-3", {WEB: A}, "the pod has another network by now"),
        attached("web-2", {WEB: A, TLS: A}),
        attached("web-1", {WEB: A}),
    )
    pods = [ref("web-1"), ref("web-2"), ref("web-3"), ref("web-5")]
    desired = {"uid-web-2": {WEB: A, TLS: B}, "uid-web-3": {WEB: A}, "uid-web-5": {WEB: B}}
    assert (
        render(plan(pods, desired, now))
        == """\
detach shop/web-1 (no live intercept)
detach shop/web-3 (the pod has another network by now; at once)
detach shop/web-4 (the pod is gone; at once)
route  shop/web-2 80->shop/web-1a2b 443->shop/web-3c4d
attach shop/web-3 80->shop/web-1a2b
attach shop/web-5 80->shop/web-3c4d"""
    )


def test_a_pod_that_just_failed_is_left_alone() -> None:
    desired = {"uid-web-1": {WEB: A}, "uid-web-2": {WEB: A}}
    ops = plan([ref("web-1"), ref("web-2")], desired, {}, held_back=frozenset({"uid-web-1"}))
    assert [op.pod.name for op in ops] == ["web-2"]


def test_holding_back_does_not_keep_ports_from_being_given_back() -> None:
    ops = plan([ref("web-1")], {}, by_uid(attached("web-1", {WEB: A})), held_back=frozenset({"uid-web-1"}))
    assert ops == [Detach(ref("web-1"), "no live intercept")]


_names = st.sampled_from([f"web-{n}" for n in range(6)])
_routes = st.dictionaries(st.sampled_from([WEB, TLS, DNS]), st.sampled_from([A, B]), max_size=3)
_desired = st.dictionaries(_names.map("uid-{}".format), _routes)
_attached = st.dictionaries(_names, st.tuples(_routes.filter(bool), st.sampled_from(["", "", "moved"]))).map(
    lambda found: by_uid(*(attached(name, routes, broken) for name, (routes, broken) in found.items()))
)


def carried_out(now: Mapping[str, Attached], ops: list[object]) -> dict[str, Attached]:
    """The attachments after `ops`, each of which must be possible when its turn comes."""
    after = dict(now)
    for op in ops:
        if isinstance(op, Attach):
            assert op.pod.uid not in after
            after[op.pod.uid] = Attached(op.pod, op.routes)
        elif isinstance(op, Detach):
            del after[op.pod.uid]
        else:
            assert not after[op.pod.uid].broken
            after[op.pod.uid] = Attached(op.pod, op.routes)
    return after


@given(st.frozensets(_names), _desired, _attached)
def test_the_plan_reaches_what_is_desired_and_stops(
    names: frozenset[str], desired: dict[str, PodRoutes], now: dict[str, Attached]
) -> None:
    pods = [ref(name) for name in names]
    after = carried_out(now, list(plan(pods, desired, now)))
    existing = {pod.uid for pod in pods}
    assert {uid: one.routes for uid, one in after.items()} == {
        uid: routes for uid, routes in desired.items() if routes and uid in existing
    }
    assert plan(pods, desired, after) == []


@given(st.frozensets(_names), _desired, _attached)
def test_ports_are_given_back_first(
    names: frozenset[str], desired: dict[str, PodRoutes], now: dict[str, Attached]
) -> None:
    kinds = [type(op).__name__ for op in plan([ref(name) for name in names], desired, now)]
    order = ["Detach", "SetRoutes", "Attach"]
    assert kinds == sorted(kinds, key=order.index)
