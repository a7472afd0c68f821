"""What the server reads from requests: paths, users' rights, protobuf bodies; and the tables that it answers with."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tproxy.errors import DeniedError
from tproxy.kube.port import INTERCEPTS, PODS
from tproxy.lab.api import authn, protobuf, rbac
from tproxy.lab.api.errors import UnauthorizedError, UnsupportedMediaTypeError, status_of
from tproxy.lab.api.request import RequestInfo, parse
from tproxy.lab.api.resources import Column, Kind
from tproxy.lab.api.reviews import ANSWERS
from tproxy.lab.api.table import lookup, table


@pytest.mark.parametrize(
    ("method", "path", "query", "expected"),
    [
        ("GET", "/api/v1/pods", {}, RequestInfo("list", "", "v1", "pods")),
        ("GET", "/api/v1/namespaces/a/pods", {"watch": "1"}, RequestInfo("watch", "", "v1", "pods", "a")),
        ("GET", "/api/v1/namespaces/a/pods/p/log", {}, RequestInfo("get", "", "v1", "pods", "a", "p", "log")),
        ("POST", "/api/v1/namespaces", {}, RequestInfo("create", "", "v1", "namespaces")),
        ("DELETE", "/api/v1/namespaces/a", {}, RequestInfo("delete", "", "v1", "namespaces", "a", "a")),
        ("PATCH", "/api/v1/namespaces/a/status", {}, RequestInfo("patch", "", "v1", "namespaces", "a", "a", "status")),
        ("DELETE", "/api/v1/namespaces/a/pods", {}, RequestInfo("deletecollection", "", "v1", "pods", "a")),
        ("PUT", "/apis/apps/v1/namespaces/a/x/d", {}, RequestInfo("update", "apps", "v1", "x", "a", "d")),
        ("GET", "/healthz", {}, None),
        ("GET", "/apis/apps/v1", {}, None),
        ("GET", "/api/v1/namespaces/a/pods/p/proxy/more", {}, None),
    ],
)  # fmt: skip
def test_paths(method: str, path: str, query: dict[str, str], expected: RequestInfo | None) -> None:
    assert parse(method, path, query) == expected


def asks(verb: str, plural: str, namespace: str = "", subresource: str = "", group: str = "") -> RequestInfo:
    return RequestInfo(verb, group, "v1", plural, namespace, "", subresource)


def test_rights_of_the_usual_users() -> None:
    assert authn.admin().may(asks("delete", "nodes"))
    developer = rbac.developer("dora", "shop")
    assert developer.may(asks("create", "intercepts", "shop", group="tproxy.dev"))
    assert developer.may(asks("create", "pods", "tproxy-system", "portforward"))
    assert developer.may(asks("watch", "pods", "shop"))
    assert not developer.may(asks("create", "intercepts", "other", group="tproxy.dev"))
    assert not developer.may(asks("create", "intercepts", "shop"))
    assert not developer.may(asks("list", "pods"))
    assert not developer.may(asks("delete", "pods", "shop"))
    viewer = authn.viewer("vera")
    assert viewer.may(asks("list", "nodes"))
    assert not viewer.may(asks("patch", "pods", "shop"))
    assert not authn.nobody().may(asks("get", "pods", "shop"))


def test_a_refusal_is_worded_as_kubernetes_words_it() -> None:
    with pytest.raises(DeniedError) as refused:
        authn.nobody("nemo").authorise(
            RequestInfo("create", "tproxy.dev", "v1alpha1", "intercepts", "shop", "web", "status")
        )
    assert refused.value.message == (
        'intercepts.tproxy.dev "web" is forbidden: User "nemo" cannot create resource "intercepts/status"'
        ' in API group "tproxy.dev" in the namespace "shop"'
    )
    assert status_of(refused.value, {"name": "web"}) == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": refused.value.message,
        "reason": "Forbidden",
        "details": {"name": "web"},
        "code": 403,
    }
    with pytest.raises(DeniedError, match='resource "nodes" in API group "" at the cluster scope'):
        authn.nobody().authorise(asks("list", "nodes"))


@pytest.mark.parametrize(
    ("header", "address", "user"),
    [
        ("Bearer right", "192.0.2.1", "admin"),
        ("bearer right", None, "admin"),
        ("", "10.0.0.2", "neighbour"),
        ("Bearer wrong", "10.0.0.2", None),
        ("Basic right", "10.0.0.2", None),
        ("Bearer", "10.0.0.2", None),
        ("", "192.0.2.1", None),
        ("", None, None),
    ],
)
def test_who_asks(header: str, address: str | None, user: str | None) -> None:
    tokens, peers = {"right": authn.admin()}, {"10.0.0.2": authn.viewer("neighbour")}
    if user is None:
        with pytest.raises(UnauthorizedError):
            authn.authenticate(header, address, tokens, peers)
    else:
        assert authn.authenticate(header, address, tokens, peers).name == user


def field(number: int, content: bytes) -> bytes:
    """A length-delimited protobuf field."""
    size = len(content)
    encoded = bytes((size,)) if size < 128 else bytes((size & 0x7F | 0x80, size >> 7))
    return bytes((number << 3 | 2,)) + encoded + content


def envelope(message: bytes) -> bytes:
    return b"k8s\0" + field(1, field(1, b"v1")) + field(2, message) + field(3, b"")


def test_protobuf_review() -> None:
    attributes = field(1, b"shop") + field(2, b"get") + field(5, b"pods") + b"\x40\x01"
    review = protobuf.decode("selfsubjectaccessreviews", envelope(field(2, field(1, attributes))))
    assert review == {"spec": {"resourceAttributes": {"namespace": "shop", "verb": "get", "resource": "pods"}}}
    answer = ANSWERS["selfsubjectaccessreviews.authorization.k8s.io"]
    assert answer(authn.viewer("vera"), review)["status"] == {"allowed": True}
    assert answer(authn.nobody(), review)["status"] == {"allowed": False}


def test_protobuf_config_map() -> None:
    entries = [field(2, field(1, key) + field(2, value)) for key, value in ((b"a", b"1"), (b"b", b"x" * 200))]
    body = envelope(field(1, field(1, b"c")) + b"".join(entries))
    assert protobuf.decode("configmaps", body) == {"metadata": {"name": "c"}, "data": {"a": "1", "b": "x" * 200}}


@given(st.sampled_from(["pods", "configmaps", "selfsubjectaccessreviews"]), st.binary(max_size=60))
def test_any_protobuf_is_understood_or_refused(plural: str, noise: bytes) -> None:
    for body in (noise, b"k8s\0" + noise, envelope(noise)):
        with contextlib.suppress(UnsupportedMediaTypeError):
            assert isinstance(protobuf.decode(plural, body), dict)


def test_json_paths() -> None:
    obj = {"a": {"b": [{"c": 1}, {"c": 2}], "m": {"x": {"s": "u"}, "y": {"s": "v"}}, "k.l": 3}}
    assert lookup(obj, ".a.b[1].c") == [2]
    assert lookup(obj, ".a.b[*].c") == [1, 2]
    assert lookup(obj, ".a.m[*].s") == ["u", "v"]
    assert lookup(obj, ".a['k.l']") == [3]
    assert lookup(obj, ".a.nothing.b[0]") == []


def test_tables() -> None:
    metadata = {"name": "x", "creationTimestamp": "2020-01-01T00:00:00Z"}
    columns = (Column("Target", "string", ".spec.target"), Column("Ports", "string", ".spec.ports[*]", 1))
    custom = table(
        Kind(INTERCEPTS, columns=columns),
        [{"metadata": metadata, "spec": {"target": "web", "ports": [1, 2]}}],
        "7",
        "None",
    )
    assert [(c["name"], c["priority"]) for c in custom["columnDefinitions"]] == [
        ("Name", 0),
        ("Target", 0),
        ("Ports", 1),
        ("Age", 0),
    ]
    assert custom["rows"][0]["cells"][:3] == ["x", "web", "1,2"]
    pod = {"metadata": metadata, "spec": {"containers": [{}]}, "status": {"phase": "Running"}}
    row = table(Kind(PODS), [pod], "7", "Metadata")["rows"][0]
    assert row["cells"][:4] == ["x", "0/1", "Running", 0]
    assert row["object"]["metadata"] == metadata
