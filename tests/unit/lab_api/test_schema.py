"""Custom resources against their structural schema."""

from typing import Any

import pytest

from tproxy.kube.port import INTERCEPTS, NAMESPACES, Object
from tproxy.lab.api import admission
from tproxy.lab.api.errors import BadRequestError, InvalidObjectError
from tproxy.lab.api.resources import Kind, builtin_kinds, custom_kinds
from tproxy.lab.api.schema import admit, refuse_unknown_fields, unknown_fields
from tproxy.lab.api.store import Store

SCHEMA: Any = {"type": "object", "properties": {"a": {"type": "integer"}}}


def intercept(**spec: Any) -> Object:
    target = {"target": {"kind": "Deployment", "name": "web"}}
    return {"metadata": {"name": "web-1"}, "spec": target | spec}


def test_defaults_are_filled_in_and_unknown_fields_dropped(store: Store) -> None:
    created = store.create(INTERCEPTS, intercept(ports=[{"port": 80, "bogus": 1}], bogus={"a": 1}))
    assert created["spec"] == {
        "target": {"kind": "Deployment", "name": "web"},
        "ports": [{"port": 80, "protocol": "TCP"}],
        "onDisconnect": "fallback",
    }


@pytest.mark.parametrize(
    ("spec", "field", "words"),
    [
        ({"target": {"kind": "Deployment"}}, "spec.target.name", "Required value"),
        ({"target": None}, "spec.target", "must be of type object"),
        ({"target": {"kind": 1, "name": "web"}}, "spec.target.kind", "must be of type string"),
        ({"target": {"kind": "X", "name": "Web"}}, "spec.target.name", r"should match \^\[a-z\]\+\$"),
        ({"target": {"kind": "X", "name": "muchtoolongname"}}, "spec.target.name", "at most"),
        ({"ports": [{"port": 0}]}, "spec.ports[0].port", "greater than or equal to 1"),
        ({"ports": [{"port": 80}, {"port": 70000}]}, "spec.ports[1].port", "less than or equal to 65535"),
        ({"ports": [{"port": True}]}, "spec.ports[0].port", "must be of type integer"),
        ({"ports": [{"port": 1}] * 3}, "spec.ports", "at most this many items"),
        ({"ports": [{"port": 1, "protocol": "UDP"}]}, "spec.ports[0].protocol", 'supported values: "TCP"'),
        ({"onDisconnect": "panic"}, "spec.onDisconnect", "Unsupported value"),
    ],
)
def test_what_the_schema_forbids_is_refused(store: Store, spec: Object, field: str, words: str) -> None:
    with pytest.raises(InvalidObjectError, match=words) as refused:
        store.create(INTERCEPTS, intercept(**spec))
    assert refused.value.message.startswith(f'Intercept.tproxy.dev "web-1" is invalid: {field}: ')
    assert [cause.field for cause in refused.value.causes] == [field]
    assert store.list(INTERCEPTS) == []


def test_every_wrong_field_is_named(store: Store) -> None:
    with pytest.raises(InvalidObjectError) as refused:
        store.create(INTERCEPTS, intercept(onDisconnect="panic", ports=[{}]))
    assert {cause.field for cause in refused.value.causes} == {"spec.onDisconnect", "spec.ports[0].port"}


def test_immutable_fields(store: Store) -> None:
    store.create(INTERCEPTS, intercept())
    store.patch(INTERCEPTS, "web-1", {"spec": {"onDisconnect": "fail"}})
    with pytest.raises(InvalidObjectError, match=r"spec\.target: .*target is immutable"):
        store.patch(INTERCEPTS, "web-1", {"spec": {"target": {"name": "api"}}})


def test_status_is_validated_too(store: Store) -> None:
    store.create(INTERCEPTS, intercept())
    patched = store.patch(INTERCEPTS, "web-1", {"status": {"nodes": {"n": {}}, "x": 1}}, subresource="status")
    assert patched["status"] == {"nodes": {"n": {}}}
    with pytest.raises(InvalidObjectError, match=r"status\.nodes\[n\]"):
        store.patch(INTERCEPTS, "web-1", {"status": {"nodes": {"n": 1}}}, subresource="status")


def test_strict_validation_names_unknown_fields() -> None:
    assert list(unknown_fields(SCHEMA, {"metadata": {}, "kind": "", "a": 1, "b": 2})) == [("b",)]
    with pytest.raises(BadRequestError, match='strict decoding error: unknown field "b"'):
        refuse_unknown_fields(SCHEMA, {"a": 1, "b": 2})


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "string", "format": "date-time"}, "2026-01-02T03:04:05Z", "yesterday"),
        ({"type": "string", "format": "date-time"}, "2026-01-02T03:04:05.5+01:00", "2026-01-02"),
        ({"x-kubernetes-int-or-string": True}, "http", 1.5),
        ({"type": "string", "nullable": True}, None, 1),
        ({"type": "string", "minLength": 2}, "ab", "a"),
        ({"type": "object", "additionalProperties": {"type": "string"}, "maxProperties": 1}, {"a": ""}, {"a": 1}),
        ({"type": "string", "pattern": "^a$"}, "a", "a\n"),
        (
            {"type": "array", "items": {"type": "object"}, "x-kubernetes-list-map-keys": ["k"]},
            [{"k": 1}, {"k": 2}],
            [{"k": 1}, {"k": 1}],
        ),
        ({"type": "number"}, 1.5, "1.5"),
    ],
)
def test_other_keywords(schema: Object, good: Any, bad: Any) -> None:
    kind = Kind(
        INTERCEPTS, schema={"type": "object", "x-kubernetes-preserve-unknown-fields": True, "properties": {"v": schema}}
    )
    admit(kind, {"metadata": {"name": "x"}, "v": good}, None)
    with pytest.raises(InvalidObjectError):
        admit(kind, {"metadata": {"name": "x"}, "v": bad}, None)


@pytest.mark.parametrize(
    ("match", "field"),
    [
        ({"headers": [{"name": "x", "type": "RegularExpression", "value": "("}]}, "spec.match.headers[0]"),
        ({"baggage": [{"name": "x", "type": "RegularExpression", "value": "(?=a)"}]}, "spec.match.baggage[0]"),
        ({"path": {"type": "RegularExpression", "value": "["}}, "spec.match.path"),
    ],
)
def test_our_definition_refuses_patterns_that_are_none(match: Object, field: str) -> None:
    store = Store([*builtin_kinds(), *custom_kinds()])
    admission.install(store)
    spec = {"session": "s", "target": {"kind": "Deployment", "name": "web"}, "ports": [{"port": 80}]}
    obj = {"metadata": {"name": "web-1"}, "spec": spec | {"match": match}}
    store.create(NAMESPACES, {"metadata": {"name": "shop"}})
    with pytest.raises(InvalidObjectError, match="must be a regular expression") as refused:
        store.create(INTERCEPTS, obj, "shop")
    assert [cause.field for cause in refused.value.causes] == [field]
    obj["spec"] = spec | {"match": {"path": {"value": "["}}}
    store.create(INTERCEPTS, obj, "shop")
