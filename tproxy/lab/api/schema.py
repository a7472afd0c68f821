"""Validation of custom resources by their structural schema, as far as CustomResourceDefinitions use it.

Unknown fields are dropped, defaults are filled in, and the rest is checked: types, required, enum, pattern, limits of
numbers, strings, lists and maps, keys of lists, and of the CEL rules two forms: `self == oldSelf`, and the one by which
values of type `RegularExpression` have to be ones.
"""

import copy
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from tproxy.kube.port import Object
from tproxy.lab.api.errors import BadRequestError, Cause, InvalidObjectError, invalid_value
from tproxy.lab.api.resources import Kind
from tproxy.model.pattern import compile_pattern

Schema = Mapping[str, Any]

_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
}
_LIMITS = (
    ("minimum", "should be greater than or equal to", lambda value, limit: value >= limit),
    ("maximum", "should be less than or equal to", lambda value, limit: value <= limit),
    ("minLength", "should be at least this many characters long:", lambda value, limit: len(value) >= limit),
    ("maxLength", "should be at most this many characters long:", lambda value, limit: len(value) <= limit),
    ("minItems", "should have at least this many items:", lambda value, limit: len(value) >= limit),
    ("maxItems", "should have at most this many items:", lambda value, limit: len(value) <= limit),
    ("minProperties", "should have at least this many properties:", lambda value, limit: len(value) >= limit),
    ("maxProperties", "should have at most this many properties:", lambda value, limit: len(value) <= limit),
    ("pattern", "should match", lambda value, limit: _matches(limit, value)),
)
_PATTERN_RULE = "self.type != 'RegularExpression' || ''.matches(self.value) in [true, false]"
_ALWAYS_KNOWN = {"apiVersion", "kind", "metadata"}


def admit(kind: Kind, obj: Object, before: Object | None) -> None:
    """Admission of custom resources: prunes, fills in defaults, raises InvalidObjectError."""
    if kind.schema is None:
        return
    for path in list(unknown_fields(kind.schema, obj)):
        _drop(obj, path)
    _fill_defaults(kind.schema, obj)
    check(kind, kind.schema, obj)
    if before is not None:
        _refuse(kind, obj, _check_transition(kind.schema, obj, before, ""))


def check(kind: Kind, schema: Schema, obj: Object) -> None:
    """Raise InvalidObjectError, with all causes, unless the object is as the schema says."""
    _refuse(kind, obj, _check(schema, obj, ""))


def _refuse(kind: Kind, obj: Object, found: Iterator[Cause]) -> None:
    if causes := list(found):
        raise InvalidObjectError(kind.resource, obj["metadata"]["name"], causes)


def refuse_unknown_fields(schema: Schema, obj: Object) -> None:
    """What `fieldValidation=Strict` asks for. Raises BadRequestError."""
    if unknown := [".".join(map(str, path)) for path in unknown_fields(schema, obj)]:
        names = ", ".join(f'unknown field "{name}"' for name in unknown)
        raise BadRequestError(f"strict decoding error: {names}"[:1024])


def unknown_fields(schema: Schema, value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The paths of fields that the schema doesn't know."""
    if isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            yield from unknown_fields(schema["items"], item, (*path, index))
    elif isinstance(value, dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        properties, others = schema.get("properties", {}), schema.get("additionalProperties")
        for key, item in value.items():
            if not path and key in _ALWAYS_KNOWN:
                continue
            if key in properties:
                yield from unknown_fields(properties[key], item, (*path, key))
            elif isinstance(others, Mapping):
                yield from unknown_fields(others, item, (*path, key))
            elif not others:
                yield (*path, key)


def _drop(obj: Any, path: Sequence[str | int]) -> None:
    for step in path[:-1]:
        obj = obj[step]
    del obj[path[-1]]


def _children(schema: Schema, value: Any) -> Iterator[tuple[str, str | int, Schema]]:
    """Key as text for messages, key, and schema of what is inside a value."""
    if isinstance(value, dict):
        properties, others = schema.get("properties", {}), schema.get("additionalProperties")
        for key in value:
            if key in properties:
                yield f".{key}", key, properties[key]
            elif isinstance(others, Mapping):
                yield f"[{key}]", key, others
    elif isinstance(value, list) and "items" in schema:
        for index in range(len(value)):
            yield f"[{index}]", index, schema["items"]


def _fill_defaults(schema: Schema, value: Any) -> None:
    if isinstance(value, dict):
        for name, inner in schema.get("properties", {}).items():
            if "default" in inner:
                value.setdefault(name, copy.deepcopy(inner["default"]))
    for _, key, inner in _children(schema, value):
        _fill_defaults(inner, value[key])


def _check(schema: Schema, value: Any, path: str) -> Iterator[Cause]:
    where = path.lstrip(".")
    if value is None and schema.get("nullable"):
        return
    expected = schema.get("type")
    if schema.get("x-kubernetes-int-or-string"):
        fits = isinstance(value, int | str) and not isinstance(value, bool)
    else:
        fits = expected is None or isinstance(value, _TYPES[expected])
        fits = fits and (expected == "boolean" or not isinstance(value, bool))
    if not fits:
        why = f"{where} in body must be of type {expected}: {type(value).__name__!r}"
        yield Cause(where, "FieldValueTypeInvalid", f"Invalid value: {str(value)[:256]!r}: {why}")
        return
    if "enum" in schema and value not in schema["enum"]:
        allowed = ", ".join(f'"{option}"' for option in schema["enum"])
        yield Cause(
            where, "FieldValueNotSupported", f"Unsupported value: {str(value)[:256]!r}: supported values: {allowed}"
        )
    yield from _check_limits(schema, value, where)
    if isinstance(value, dict):
        for name in schema.get("required", ()):
            if name not in value:
                yield Cause(f"{path}.{name}".lstrip("."), "FieldValueRequired", "Required value")
    yield from _check_keys(schema, value, where)
    yield from _check_patterns(schema, value, where)
    for text, key, inner in _children(schema, value):
        yield from _check(inner, value[key], path + text)


def _matches(pattern: str, value: str) -> bool:
    # `$` also matches before a last line feed here, but not in the server's regular expressions.
    return re.search(re.sub(r"\$$", r"\\Z", pattern), value) is not None


def _check_limits(schema: Schema, value: Any, where: str) -> Iterator[Cause]:
    for keyword, words, holds in _LIMITS:
        if keyword in schema and not holds(value, schema[keyword]):
            yield invalid_value(where, value, f"{where} in body {words} {schema[keyword]}")
    if schema.get("format") == "date-time":
        try:
            zoned = datetime.fromisoformat(value).tzinfo is not None
        except ValueError:
            zoned = False
        if not zoned:
            yield invalid_value(where, value, f"{where} in body must be of type date-time")


def _check_keys(schema: Schema, value: Any, where: str) -> Iterator[Cause]:
    """Elements of a list of type `map` differ in their keys."""
    keys, seen = schema.get("x-kubernetes-list-map-keys", ()), []
    for index, item in enumerate(value) if keys else ():
        identity = {key: item.get(key) for key in keys} if isinstance(item, dict) else item
        if identity in seen:
            yield Cause(f"{where}[{index}]", "FieldValueDuplicate", f"Duplicate value: {json.dumps(identity)}")
        seen.append(identity)


def _check_patterns(schema: Schema, value: Any, where: str) -> Iterator[Cause]:
    for rule in schema.get("x-kubernetes-validations", ()):
        if rule["rule"] == _PATTERN_RULE and isinstance(value, dict) and value.get("type") == "RegularExpression":
            try:
                compile_pattern(str(value.get("value", "")))
            except ValueError as error:
                yield invalid_value(where, value, f"{rule['message']}: {error}")


def _check_transition(schema: Schema, value: Any, before: Any, path: str) -> Iterator[Cause]:
    """The form of `x-kubernetes-validations` that compares with what was there: `self == oldSelf`."""
    for rule in schema.get("x-kubernetes-validations", ()):
        if rule["rule"].split() == ["self", "==", "oldSelf"] and value != before:
            yield invalid_value(path.lstrip("."), value, rule.get("message", f"failed rule: {rule['rule']}"))
    for text, key, inner in _children(schema, value):
        if isinstance(before, dict) and key in before:
            yield from _check_transition(inner, value[key], before[key], path + text)
