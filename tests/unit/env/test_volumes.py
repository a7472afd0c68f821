"""What the kubelet writes into volumes, and where a container sees it."""

import pytest

from tproxy.env.archive import File
from tproxy.env.spec import data_of
from tproxy.env.volumes import Entry, content, files, is_filled, mounts, references
from tproxy.errors import InvalidError

POD = {"metadata": {"name": "web-1", "namespace": "shop", "labels": {"app": "web", "tier": "front"}}, "spec": {}}
OBJECTS = {
    ("ConfigMap", "settings"): {"a": b"1", "b": b"2"},
    ("Secret", "keys"): {"key": b"\xff"},
}
PROJECTED = {
    "name": "all",
    "projected": {
        "defaultMode": 0o400,
        "sources": [
            {"configMap": {"name": "settings", "items": [{"key": "a", "path": "deep/a", "mode": 0o755}]}},
            {"secret": {"name": "keys"}},
            {"secret": {"name": "none", "optional": True}},
            {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
            {"serviceAccountToken": {"path": "token", "audience": "vault"}},
        ],
    },
}


def lookup(kind: str, name: str) -> dict[str, bytes] | None:
    return OBJECTS.get((kind, name))


def token(wanted: object) -> bytes | None:
    return b"t"


def test_a_projected_volume() -> None:
    assert content(PROJECTED, POD, lookup, token) == {
        "deep/a": Entry(b"1", 0o755),
        "key": Entry(b"\xff", 0o400),
        "labels": Entry(b'app="web"\ntier="front"', 0o400),
        "token": Entry(b"t", 0o600),
    }
    assert "token" not in content(PROJECTED, POD, lookup, lambda wanted: None)
    assert set(references(PROJECTED)) == {("ConfigMap", "settings"), ("Secret", "keys"), ("Secret", "none")}


def test_volumes_of_one_object() -> None:
    assert content({"name": "v", "secret": {"secretName": "keys"}}, POD, lookup, token) == {"key": Entry(b"\xff")}
    assert set(content({"name": "v", "configMap": {"name": "settings"}}, POD, lookup, token)) == {"a", "b"}
    assert not is_filled({"name": "v", "emptyDir": {}})
    for missing in (
        {"configMap": {"name": "x"}},
        {"configMap": {"name": "settings", "items": [{"key": "x", "path": "x"}]}},
    ):
        with pytest.raises(InvalidError):
            content({"name": "v", **missing}, POD, lookup, token)


@pytest.mark.parametrize("path", ["../up", "/root", "a//b", "..data", ""])
def test_paths_that_lead_elsewhere_are_refused(path: str) -> None:
    volume = {"name": "v", "configMap": {"name": "settings", "items": [{"key": "a", "path": path}]}}
    with pytest.raises(InvalidError):
        content(volume, POD, lookup, token)


def test_where_a_container_sees_them() -> None:
    spec = {"volumes": [{"name": "v", "configMap": {"name": "settings"}}, {"name": "scratch", "emptyDir": {}}]}
    container = {
        "name": "app",
        "volumeMounts": [
            {"name": "v", "mountPath": "/etc/config/"},
            {"name": "v", "mountPath": "/srv/one", "subPath": "a"},
            {"name": "v", "mountPath": "/srv/deep", "subPathExpr": "$(WHERE)"},
            {"name": "scratch", "mountPath": "/srv/scratch"},
        ],
    }
    filled = {"v": {"a": Entry(b"1"), "sub/x": Entry(b"2", 0o755)}}
    assert sorted(files(spec, container, {"WHERE": "sub"}, filled), key=lambda file: file.path) == [
        File("/etc/config/a", b"1"),
        File("/etc/config/sub/x", b"2", True),
        File("/srv/deep/x", b"2", True),
        File("/srv/one", b"1"),
    ]
    for wrong in ({"name": "none", "mountPath": "/x"}, {"name": "v", "mountPath": "/x", "subPath": "../../etc"}):
        with pytest.raises(InvalidError):
            mounts(spec, {"name": "app", "volumeMounts": [wrong]}, {})


def test_objects_as_they_are_sent() -> None:
    assert data_of({"kind": "ConfigMap", "data": {"a": "é"}, "binaryData": {"b": "/w=="}}) == {
        "a": "é".encode(),
        "b": b"\xff",
    }
    assert data_of({"kind": "Secret", "data": {"b": "/w=="}}) == {"b": b"\xff"}
    for wrong in ({"kind": "Secret", "data": {"b": "no base64"}}, {"kind": "ConfigMap", "data": {"a": 1}}):
        with pytest.raises(InvalidError):
            data_of(wrong)
