"""Label and field selectors."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tproxy.errors import InvalidError
from tproxy.lab.api.selectors import matcher

POD = {
    "metadata": {"name": "web-1", "namespace": "shop", "labels": {"app": "web", "tier": "front"}},
    "spec": {"nodeName": "node1", "hostNetwork": True},
    "status": {"phase": "Running"},
}


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("", True),
        ("app=web", True),
        ("app==web,tier=front", True),
        ("app=web,tier=back", False),
        ("app!=web", False),
        ("missing!=web", True),
        ("app", True),
        ("!app", False),
        ("! missing", True),
        ("app in (api, web)", True),
        ("app in (api),tier", False),
        ("app notin (api)", True),
        ("app notin (web, api), tier=front", False),
        ("missing notin (a)", True),
        ("missing in (a)", False),
        ("missing=", False),
    ],
)
def test_labels(labels: str, expected: bool) -> None:
    assert matcher("Pod", labels)(POD) is expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("metadata.name=web-1", True),
        ("metadata.name==web-1,metadata.namespace=shop", True),
        ("metadata.name!=web-1", False),
        ("spec.nodeName=node1,status.phase!=Failed", True),
        ("spec.nodeName=", False),
        ("spec.hostNetwork=true", True),
        ("status.podIP=", True),
    ],
)
def test_fields(fields: str, expected: bool) -> None:
    assert matcher("Pod", fields=fields)(POD) is expected


def test_an_object_without_labels_has_none() -> None:
    assert matcher("Pod", "!app")({"metadata": {"name": "x", "labels": None}})


@pytest.mark.parametrize("labels", ["a in b", "=x", "a in (b", "a=b c=d", "(", "a,,b"])
def test_nonsense_labels(labels: str) -> None:
    with pytest.raises(InvalidError):
        matcher("Pod", labels)


@pytest.mark.parametrize("fields", ["spec.image=x", "status.phase", "metadata.labels.app=web"])
def test_unknown_fields(fields: str) -> None:
    with pytest.raises(InvalidError):
        matcher("Pod", fields=fields)
    with pytest.raises(InvalidError):
        matcher("Intercept", fields="status.phase=x")


@given(st.text(max_size=40))
def test_any_text_is_understood_or_refused(text: str) -> None:
    with contextlib.suppress(InvalidError):
        matcher("Pod", labels=text, fields=text)(POD)
