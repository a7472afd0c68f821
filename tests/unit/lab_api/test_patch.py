"""Merge patch (against the RFC's own table), strategic merge, JSON patch."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tproxy.errors import InvalidError
from tproxy.lab.api.patch import json_patch, merge, strategic_merge

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("target", "patch", "expected"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_as_in_rfc_7396(target: Any, patch: Any, expected: Any) -> None:
    assert merge(target, patch) == expected


@given(JSON, JSON)
def test_patches_leave_their_arguments_alone(target: Any, patch: Any) -> None:
    before = copy.deepcopy((target, patch))
    merged = merge(target, patch)
    strategic_merge(target, patch)
    assert (target, patch) == before
    assert merge(merged, patch) == merged


def test_strategic_merge_joins_lists_by_their_key() -> None:
    target = {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}], "args": ["x"]}
    patch = {"containers": [{"name": "b", "image": "2"}, {"name": "a", "$patch": "delete"}], "args": ["y"]}
    patch["$setElementOrder/containers"] = [{"name": "b"}]
    assert strategic_merge(target, patch) == {"containers": [{"name": "b", "image": "2"}], "args": ["y"]}


def test_strategic_merge_directives() -> None:
    assert strategic_merge({"a": {"b": 1}}, {"a": {"$patch": "replace", "c": 2}}) == {"a": {"c": 2}}
    assert strategic_merge({"l": ["a", "b"]}, {"$deleteFromPrimitiveList/l": ["a"]}) == {"l": ["b"]}


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ({"op": "add", "path": "/l/1", "value": 9}, {"l": [1, 9, 2], "m": {"x": 1}}),
        ({"op": "add", "path": "/l/-", "value": 9}, {"l": [1, 2, 9], "m": {"x": 1}}),
        ({"op": "replace", "path": "/l/0", "value": 9}, {"l": [9, 2], "m": {"x": 1}}),
        ({"op": "remove", "path": "/m/x"}, {"l": [1, 2], "m": {}}),
        ({"op": "add", "path": "/m/a~1b~0", "value": 9}, {"l": [1, 2], "m": {"x": 1, "a/b~": 9}}),
        ({"op": "move", "from": "/m/x", "path": "/y"}, {"l": [1, 2], "m": {}, "y": 1}),
        ({"op": "copy", "from": "/l", "path": "/m"}, {"l": [1, 2], "m": [1, 2]}),
        ({"op": "replace", "path": "", "value": {}}, {}),
        ({"op": "test", "path": "/m/x", "value": 1}, {"l": [1, 2], "m": {"x": 1}}),
    ],
)
def test_json_patch(operation: Any, expected: Any) -> None:
    assert json_patch({"l": [1, 2], "m": {"x": 1}}, [operation]) == expected


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "test", "path": "/m/x", "value": 2},
        {"op": "remove", "path": "/nothing"},
        {"op": "replace", "path": "/m/y", "value": 2},
        {"op": "replace", "path": "/l/2", "value": 2},
        {"op": "add", "path": "/l/7", "value": 2},
        {"op": "add", "path": "m"},
        {"op": "boil", "path": "/m"},
        "add",
    ],
)
def test_json_patch_that_does_not_apply(operation: Any) -> None:
    with pytest.raises(InvalidError):
        json_patch({"l": [1, 2], "m": {"x": 1}}, [operation])
