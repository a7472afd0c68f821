"""The three patch formats of the Kubernetes API. All are pure: they return the patched copy."""

import copy
from collections.abc import Mapping
from typing import Any

from tproxy.lab.api.errors import BadRequestError

_MERGE_KEYS = ("name", "containerPort", "port", "mountPath", "type", "uid", "ip")


def merge(target: Any, patch: Any) -> Any:
    """JSON merge patch (RFC 7396)."""
    if not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result


def strategic_merge(target: Any, patch: Any) -> Any:
    """Strategic merge as far as kubectl needs it: lists of objects are merged by their key instead of replaced.

    The real server takes each list's key from the Go types; here it is the first usual key that all elements have.
    """
    if isinstance(patch, list):
        return _merge_lists(target if isinstance(target, list) else [], patch)
    if not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    directive = patch.get("$patch")
    result = dict(target) if isinstance(target, Mapping) and directive != "replace" else {}
    for key, value in patch.items():
        if key.startswith("$deleteFromPrimitiveList/"):
            name = key.partition("/")[2]
            result[name] = [item for item in result.get(name, []) if item not in value]
        elif key.startswith("$"):
            continue
        elif value is None:
            result.pop(key, None)
        else:
            result[key] = strategic_merge(result.get(key), value)
    return result


def _merge_lists(target: list[Any], patch: list[Any]) -> list[Any]:
    elements = [*target, *patch]
    if not elements or not all(isinstance(element, Mapping) for element in elements):
        return copy.deepcopy(patch)
    key = next((key for key in _MERGE_KEYS if all(key in element for element in elements)), None)
    if key is None:
        return copy.deepcopy(patch)
    merged = {element[key]: element for element in target}
    for element in patch:
        if element.get("$patch") == "delete":
            merged.pop(element[key], None)
        else:
            merged[element[key]] = strategic_merge(merged.get(element[key]), element)
    return list(merged.values())


def json_patch(target: Any, operations: Any) -> Any:
    """JSON patch (RFC 6902). Raises BadRequestError if an operation does not apply."""
    document = copy.deepcopy(target)
    if not isinstance(operations, list):
        raise BadRequestError("a JSON patch is a list of operations")
    for operation in operations:
        try:
            document = _apply(document, operation)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise BadRequestError(f"the JSON patch operation {str(operation)[:256]} does not apply") from error
    return document


def _apply(document: Any, operation: Any) -> Any:
    kind, path = operation["op"], _pointer(operation["path"])
    if kind == "test":
        if _lookup(document, path) != operation["value"]:
            raise ValueError("test failed")
        return document
    if kind in ("move", "copy"):
        source = _pointer(operation["from"])
        value = copy.deepcopy(_lookup(document, source))
        if kind == "move":
            _remove(document, source)
    elif kind in ("add", "replace"):
        value = copy.deepcopy(operation["value"])
    elif kind == "remove":
        _remove(document, path)
        return document
    else:
        raise ValueError(kind)
    if not path:
        return value
    parent, last = _lookup(document, path[:-1]), path[-1]
    if kind == "replace":
        _lookup(parent, [last])  # must be there
    if isinstance(parent, list) and kind != "replace":
        parent.insert(len(parent) if last == "-" else _index(last, len(parent) + 1), value)
    else:
        parent[_index(last, len(parent)) if isinstance(parent, list) else last] = value
    return document


def _pointer(text: str) -> list[str]:
    if text and not text.startswith("/"):
        raise ValueError(text)
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]


def _index(text: str, length: int) -> int:
    if not text.isdecimal() or int(text) >= length:
        raise IndexError(text)
    return int(text)


def _lookup(document: Any, path: list[str]) -> Any:
    for part in path:
        document = document[_index(part, len(document)) if isinstance(document, list) else part]
    return document


def _remove(document: Any, path: list[str]) -> None:
    parent = _lookup(document, path[:-1])
    del parent[_index(path[-1], len(parent)) if isinstance(parent, list) else path[-1]]
