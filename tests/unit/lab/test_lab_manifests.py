"""Manifests: what people write, and what is refused."""

from pathlib import Path

import pytest

from tproxy.errors import InvalidError
from tproxy.kube.port import DEPLOYMENTS, INTERCEPTS, NODES, PODS
from tproxy.lab.client import path
from tproxy.lab.manifests import Manifest, load, read_files


def test_documents_and_lists_become_objects_in_order() -> None:
    text = """
apiVersion: v1
kind: Pod
metadata: {name: a}
---
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Pod, metadata: {name: b}}
- {apiVersion: v1, kind: Pod, metadata: {name: c}}
"""
    assert [one["metadata"]["name"] for one in load(text, "x")] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no objects"),
        ("a: [", "not YAML"),
        ("!!python/object:os.system {}", "not YAML"),
        ("- 1", "not an object"),
        ("kind: Pod", "no apiVersion"),
        ("{apiVersion: v1, kind: Pod}", "no metadata.name"),
        ("{apiVersion: v1, kind: Pod, metadata: [1]}", "no metadata.name"),
        ("{apiVersion: v1, kind: Pod, metadata: {name: 1}}", "no metadata.name"),
        ("{apiVersion: v1, kind: List, items: [7]}", "not an object"),
    ],
)
def test_nonsense_is_named(text: str, complaint: str) -> None:
    with pytest.raises(InvalidError, match=complaint):
        load(text, "web.yaml")


def test_files_directories_and_standard_input(tmp_path: Path) -> None:
    for name in ("b.yaml", "a.yml", "c.json", "README.md"):
        (tmp_path / name).write_text(f'{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "{name}"}}}}')
    given = "{apiVersion: v1, kind: Pod, metadata: {name: typed}}"
    names = [one["metadata"]["name"] for one in read_files([str(tmp_path), "-"], lambda: given)]
    assert names == ["a.yml", "b.yaml", "c.json", "typed"]
    with pytest.raises(InvalidError, match="No such file"):
        read_files([str(tmp_path / "none.yaml")], str)


def test_paths_of_objects() -> None:
    assert path(PODS, "shop", "web") == "/api/v1/namespaces/shop/pods/web"
    assert path(PODS) == "/api/v1/pods"
    assert path(NODES, "", "node1") == "/api/v1/nodes/node1"
    assert path(INTERCEPTS, "shop") == "/apis/tproxy.dev/v1alpha1/namespaces/shop/intercepts"


def test_titles_are_kubectls() -> None:
    assert Manifest(DEPLOYMENTS, "shop", "web", {}).title == "deployment/web"
    assert Manifest(INTERCEPTS, "shop", "web", {}).title == "intercept.tproxy.dev/web"
