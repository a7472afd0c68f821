"""Sessions and Intercepts: round trips, and what is refused."""

import contextlib
import copy
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.model import objects
from tproxy.errors import InvalidError
from tproxy.model import intercept as intercept_module
from tproxy.model import match as match_module
from tproxy.model import session as session_module
from tproxy.model.intercept import Intercept, InterceptPort, NodeState, NodeStatus, PodStatus, Target
from tproxy.model.match import HeaderMatch, Match, PathMatch
from tproxy.model.session import Session

CRDS = Path(__file__).parents[3] / "charts" / "tproxy" / "files" / "crds"


def stored(value: Session | Intercept) -> dict[str, Any]:
    """The object as the API server gives it back."""
    obj = value.to_object()
    obj["metadata"]["uid"] = value.uid
    if isinstance(value, Intercept):
        for node, status in value.nodes.items():
            obj.setdefault("status", {}).setdefault("nodes", {}).update(
                Intercept.status_patch(node, status)["status"]["nodes"]
            )
        if value.created is not None:
            obj["metadata"]["creationTimestamp"] = value.created.isoformat().replace("+00:00", "Z")
        if value.deleting:
            obj["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    return obj


@given(objects.sessions)
def test_session_round_trip(session: Session) -> None:
    assert Session.from_object(stored(session)) == session


@given(objects.intercepts)
def test_intercept_round_trip(intercept: Intercept) -> None:
    assert Intercept.from_object(stored(intercept)) == intercept


def test_the_object_to_create_has_no_status_and_an_owner() -> None:
    obj = objects.intercept(nodes={"node1": NodeStatus(NodeState.READY)}).to_object()
    assert "status" not in obj
    assert "uid" not in obj["metadata"]
    assert obj["metadata"]["ownerReferences"] == [
        {"apiVersion": "tproxy.dev/v1alpha1", "kind": "Session", "name": "laptop-s1", "uid": "s1"}
    ]
    assert "match" not in obj["spec"]


@given(objects.json_values)
def test_anything_else_is_one_sentence(value: object) -> None:
    for parse in (Session.from_object, Intercept.from_object):
        with pytest.raises(InvalidError) as raised:
            parse(value)
        assert len(raised.value.message) < 700
        assert "\n" not in raised.value.message


@given(st.data())
def test_any_single_field_may_be_nonsense(data: st.DataObject) -> None:
    """Whatever stands in one place, parsing gives an Intercept or says no; it never falls over."""
    obj = copy.deepcopy(stored(data.draw(objects.intercepts)))
    place: Any = obj
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        inner = place[key]
        if not inner or not isinstance(inner, dict | list) or data.draw(st.booleans()):
            place[key] = data.draw(objects.json_values)
            break
        place = inner
    with contextlib.suppress(InvalidError):
        Intercept.from_object(obj)


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (("spec", "ports"), [], "Intercept shop/web-i1: spec.ports must be at least one port, not list"),
        (("spec", "ports"), None, "Intercept shop/web-i1: spec.ports is missing"),
        (("spec", "ports"), [{"port": 0}], "spec.ports[0].port must be a whole number from 1 to 65535, not int"),
        (("spec", "ports"), [{"port": True}], "spec.ports[0].port must be a whole number from 1 to 65535, not bool"),
        (("spec", "ports"), [{"port": "80"}], "spec.ports[0].port must be a whole number from 1 to 65535, not '80'"),
        (("spec", "ports"), [{"port": 80, "protocol": "SCTP"}], "protocol must be TCP or UDP, not 'SCTP'"),
        (("spec", "ports"), [{"port": 80}] * 33, "spec.ports has more than 32 items"),
        (("spec", "target"), None, "Intercept shop/web-i1: spec.target is missing"),
        (("spec", "target"), "web", "spec.target must be a JSON object, not 'web'"),
        (("spec", "target", "kind"), "deploy", "spec.target.kind must be a kind, not 'deploy'"),
        (("spec", "target", "name"), "../etc", "spec.target.name must be a Kubernetes object name, not '../etc'"),
        (("spec", "session"), "other", "metadata.ownerReferences must be a list with an entry for the Session other"),
        (("spec", "onDisconnect"), "shrug", "spec.onDisconnect must be fallback or fail, not 'shrug'"),
        (("spec", "probes"), "node", "spec.probes must be app or laptop, not 'node'"),
        (("spec", "existing"), "all", "spec.existing must be idle, keep or reset, not 'all'"),
        (("spec", "drainSeconds"), -1, "spec.drainSeconds must be a whole number from 0 to 3600, not int"),
        (("spec", "match"), {}, "Intercept shop/web-i1: spec.match needs at least one condition"),
        (("spec", "match"), {"cookies": []}, "spec.match.cookies must be absent (this version does not know it)"),
        (("spec", "match"), {"baggage": []}, "spec.match needs at least one condition"),
        (("spec", "match"), {"baggage": [{"name": "a b", "value": "1"}]}, "must be the name of a baggage entry"),
        (
            ("spec", "match"),
            {"headers": [{"name": "x", "value": "(", "type": "RegularExpression"}]},
            "spec.match.headers[0].value must be a regular expression (missing ): (), not '('",
        ),
        (
            ("spec", "match"),
            {"path": {"value": "(?=a)", "type": "RegularExpression"}},
            "must be a regular expression (invalid perl operator: (?=)",
        ),
        (("spec", "onRefused"), "shrug", "spec.onRefused must be fail or fallback, not 'shrug'"),
        (("spec", "match"), {"method": "get"}, "spec.match.method must be an HTTP method in capitals"),
        (("spec", "match"), {"headers": [{"name": "x y", "value": "1"}]}, "headers[0].name must be a header name"),
        (
            ("spec", "match"),
            {"headers": [{"name": "x", "value": "1", "type": "PathPrefix"}]},
            "spec.match.headers[0].type must be one of Exact, RegularExpression",
        ),
        (("metadata", "creationTimestamp"), "yesterday", "must be an RFC 3339 time, not 'yesterday'"),
        (("metadata", "creationTimestamp"), "2026-01-01", "must be an RFC 3339 time, not '2026-01-01'"),
        (("metadata", "namespace"), 3, "metadata.namespace must be a Kubernetes object name, not int"),
        (("kind",), "Pod", "expected an object of kind Intercept, not 'Pod'"),
    ],
)
def test_what_an_intercept_refuses(path: tuple[str, ...], value: object, sentence: str) -> None:
    obj = stored(objects.intercept())
    place = obj
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(InvalidError) as raised:
        Intercept.from_object(obj)
    assert sentence in raised.value.message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tokenHash", "A" * 64),
        ("tokenHash", "a" * 63),
        ("tokenHash", "a" * 64 + "\n"),
        ("tokenHash", None),
        ("ttlSeconds", 3599),
        ("ttlSeconds", 1e9),
        ("ttlSeconds", "3600"),
        ("user", "u" * 513),
        ("renewTime", "9999-12-31T23:59:59-23:59"),
    ],
)
def test_what_a_session_refuses(field: str, value: object) -> None:
    obj = stored(objects.session())
    obj["spec"][field] = value
    with pytest.raises(InvalidError, match=rf"Session shop/laptop-s1: spec\.{field} "):
        Session.from_object(obj)


def test_foreign_text_is_capped() -> None:
    obj = stored(objects.intercept())
    obj["spec"]["onDisconnect"] = "x" * 200
    with pytest.raises(InvalidError) as raised:
        Intercept.from_object(obj)
    assert len(raised.value.message) < 200


def test_a_state_we_do_not_know_is_not_ready() -> None:
    obj = stored(objects.intercept())
    obj["status"] = {"nodes": {"node1": {"state": "Draining", "pods": [{"name": "p", "uid": "u", "state": "New"}]}}}
    status = Intercept.from_object(obj).nodes["node1"]
    assert status == NodeStatus(NodeState.PENDING, pods=(PodStatus("p", "u", NodeState.PENDING),))


def test_status_patch_touches_one_node_only_and_replaces_it_wholly() -> None:
    patch = Intercept.status_patch("node1", NodeStatus(NodeState.REFUSED, "R" * 99, "m" * 9999))
    entry = patch["status"]["nodes"].pop("node1")
    assert patch == {"status": {"nodes": {}}}
    # A merge patch keeps what it does not name: everything is named.
    assert entry == {"state": "Refused", "reason": "R" * 64, "message": "m" * 1024, "pods": []}
    assert Intercept.status_patch("node1", None) == {"status": {"nodes": {"node1": None}}}


def test_times_are_utc() -> None:
    east = datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    assert objects.session(renew_time=east).to_object()["spec"]["renewTime"] == "2026-01-01T00:00:00.000000Z"
    assert Session.renew_patch(east) == {"spec": {"renewTime": "2026-01-01T00:00:00.000000Z"}}
    assert Session.renew_patch(datetime(7, 1, 1, tzinfo=UTC)) == {"spec": {"renewTime": "0007-01-01T00:00:00.000000Z"}}


def test_matches_are_equal_whatever_the_order() -> None:
    one, two = HeaderMatch("a", "1"), HeaderMatch("b", "2", regex=True)
    assert Match((one, two)) == Match((two, one, one))
    assert Match((one,)) != Match((one,), PathMatch("/"))


def test_header_names_have_no_case() -> None:
    obj = stored(objects.intercept())
    obj["spec"]["match"] = {"headers": [{"name": "X-User", "value": "Ada"}]}
    assert Intercept.from_object(obj).match == Match((HeaderMatch("x-user", "Ada"),))


def test_target_reads_as_people_write_it() -> None:
    assert str(Target("Deployment", "web")) == "Deployment/web"
    assert InterceptPort(80) < InterceptPort(80, "UDP") < InterceptPort(81)


def test_the_definitions_have_the_models_bounds() -> None:
    """What the API server accepts the model can read, and what the model writes the API server accepts."""
    session, intercept = (
        yaml.safe_load((CRDS / f"{name}.yaml").read_text())["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        for name in ("sessions", "intercepts")
    )
    ttl = session["properties"]["spec"]["properties"]["ttlSeconds"]
    assert (ttl["minimum"], ttl["maximum"]) == (session_module.MIN_TTL_SECONDS, session_module.MAX_TTL_SECONDS)
    spec = intercept["properties"]["spec"]["properties"]
    assert spec["ports"]["maxItems"] == intercept_module.MAX_PORTS
    assert spec["match"]["properties"]["headers"]["maxItems"] == match_module.MAX_HEADERS
    assert set(spec["match"]["properties"]) == {"headers", "baggage", "path", "method"}
    assert spec["match"]["properties"]["baggage"]["maxItems"] == match_module.MAX_BAGGAGE
    assert spec["match"]["properties"]["path"]["properties"]["value"]["maxLength"] == match_module.VALUE_LIMIT
    nodes = intercept["properties"]["status"]["properties"]["nodes"]
    assert nodes["maxProperties"] == intercept_module.MAX_NODES
    node = nodes["additionalProperties"]["properties"]
    for part in (node, node["pods"]["items"]["properties"]):
        assert part["state"]["enum"] == [state.value for state in NodeState]
        assert part["reason"]["maxLength"] == intercept_module.REASON_LIMIT
        assert part["message"]["maxLength"] == intercept_module.MESSAGE_LIMIT
    assert node["pods"]["maxItems"] == intercept_module.MAX_PODS_PER_NODE
