"""A container's environment and the references in its command."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tproxy.env.spec import command_line, environment, expand, field
from tproxy.errors import InvalidError

POD = {
    "metadata": {"name": "web-1", "namespace": "shop", "labels": {"app": "web"}},
    "spec": {"nodeName": "node1"},
    "status": {"podIP": "10.244.1.2", "podIPs": [{"ip": "10.244.1.2"}, {"ip": "fd24:1::2"}]},
}


def no_maps(kind: str, name: str) -> None:
    return None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$(A)", "1"),
        ("$(MISSING)", "$(MISSING)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("cost: 5$", "cost: 5$"),
        ("$(A)$(B)", "12"),
        ("$(A", "$(A"),
        ("$A", "$A"),
    ],
)
def test_references_expand_as_kubernetes_says(text: str, expected: str) -> None:
    assert expand(text, {"A": "1", "B": "2"}) == expected


@given(st.text(alphabet="a b{}()%", max_size=40))
def test_text_without_a_dollar_is_unchanged(text: str) -> None:
    assert expand(text, {"a": "x"}) == text


@given(st.text(max_size=40), st.dictionaries(st.text(max_size=3), st.text(max_size=3)))
def test_escaping_every_dollar_gives_the_text_back(text: str, variables: dict[str, str]) -> None:
    assert expand(text.replace("$", "$$"), variables) == text


def test_later_entries_see_earlier_ones_and_the_base() -> None:
    container = {
        "name": "c",
        "env": [
            {"name": "HOST", "value": "db"},
            {"name": "URL", "value": "http://$(HOST):$(PORT)/$(LATER)"},
            {"name": "LATER", "value": "x"},
        ],
    }
    assert environment({"PORT": "1"}, container, POD, no_maps)["URL"] == "http://db:1/$(LATER)"


def test_references_to_fields_and_config_maps() -> None:
    container = {
        "name": "c",
        "envFrom": [{"configMapRef": {"name": "settings"}, "prefix": "S_"}],
        "env": [
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "k"}}},
            {"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "colour"}}},
            {"name": "NONE", "valueFrom": {"configMapKeyRef": {"name": "x", "key": "y", "optional": True}}},
        ],
    }
    objects = {("ConfigMap", "settings"): {"colour": b"green"}, ("Secret", "keys"): {"k": b"\xff"}}

    def lookup(kind: str, name: str) -> dict[str, bytes] | None:
        return objects.get((kind, name))

    found = environment({}, container, POD, lookup)
    assert found == {"S_colour": "green", "IP": "10.244.1.2", "KEY": "\udcff", "COLOUR": "green"}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("metadata.name", "web-1"),
        ("metadata.labels['app']", "web"),
        ("metadata.annotations['none']", ""),
        ("spec.nodeName", "node1"),
        ("spec.serviceAccountName", "default"),
        ("status.podIPs", "10.244.1.2,fd24:1::2"),
    ],
)
def test_fields_of_the_downward_api(path: str, expected: str) -> None:
    assert field(POD, path) == expected


@pytest.mark.parametrize(
    "container",
    [
        {"name": "c", "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]},
        {"name": "c", "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.secret"}}}]},
        {"name": "c", "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "s", "key": "k"}}}]},
        {"name": "c", "envFrom": [{"configMapRef": {"name": "s"}}]},
        {"name": "c", "envFrom": [{"secretRef": {"name": "s"}}]},
    ],
)
def test_what_cannot_be_resolved_is_said(container: dict[str, object]) -> None:
    with pytest.raises(InvalidError):
        environment({}, container, POD, no_maps)


def test_command_and_args_are_one_expanded_line() -> None:
    container = {"name": "c", "command": ["python", "-m", "$(MODULE)"], "args": ["--port", "$(PORT)"]}
    assert command_line(container, {"MODULE": "app", "PORT": "80"}) == ["python", "-m", "app", "--port", "80"]


def test_a_container_without_a_command_cannot_run() -> None:
    with pytest.raises(InvalidError, match="does not run images"):
        command_line({"name": "c", "args": ["x"]}, {})
