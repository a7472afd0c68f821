"""Reads the few bodies that kubectl insists on sending in protobuf: reviews, and what `create ns|cm NAME` makes.

Everything else that kubectl sends is JSON, and so is every answer.
"""

from collections.abc import Mapping
from typing import Any

from tproxy.kube.port import Object
from tproxy.lab.api.errors import UnsupportedMediaTypeError

CONTENT_TYPE = "application/vnd.kubernetes.protobuf"

_MAGIC = b"k8s\0"
_Message = Mapping[int, tuple[str, Any]]
"""A message's fields by number: their name, and how to read them (text, map of text, or another message)."""


def _text(raw: bytes, _: Any) -> str:
    return raw.decode()


def _entry(raw: bytes, entries: Any) -> dict[str, str]:
    fields = dict(_fields(raw))
    return {**(entries or {}), fields.get(1, b"").decode(): fields.get(2, b"").decode()}


_METADATA: _Message = {1: ("name", _text), 2: ("generateName", _text), 3: ("namespace", _text)} | {
    11: ("labels", _entry),
    12: ("annotations", _entry),
}
_ATTRIBUTES: _Message = {
    number: (name, _text)
    for number, name in enumerate(("namespace", "verb", "group", "version", "resource", "subresource", "name"), 1)
}
_MESSAGES: Mapping[str, _Message] = {
    "namespaces": {1: ("metadata", _METADATA)},
    "configmaps": {1: ("metadata", _METADATA), 2: ("data", _entry)},
    "selfsubjectaccessreviews": {2: ("spec", {1: ("resourceAttributes", _ATTRIBUTES)})},
    "selfsubjectreviews": {},
}


def decode(plural: str, body: bytes) -> Object:
    """The object in Kubernetes' protobuf envelope. Raises UnsupportedMediaTypeError."""
    message = _MESSAGES.get(plural)
    if message is None or not body.startswith(_MAGIC):
        raise UnsupportedMediaTypeError(f"the lab reads {plural} as JSON only, not as {CONTENT_TYPE}")
    try:
        envelope = dict(_fields(body[len(_MAGIC) :]))
        return _decode(message, envelope.get(2, b""))
    except (IndexError, KeyError, UnicodeDecodeError) as error:
        raise UnsupportedMediaTypeError("the protobuf body cannot be decoded") from error


def _decode(message: _Message, raw: bytes) -> Object:
    found: Object = {}
    for number, value in _fields(raw):
        if number in message:
            name, read = message[number]
            found[name] = read(value, found.get(name)) if callable(read) else _decode(read, value)
    return found


def _fields(raw: bytes) -> list[tuple[int, bytes]]:
    """Numbers and contents of the length-delimited fields. Raises IndexError or KeyError on nonsense."""
    found, position = [], 0
    while position < len(raw):
        key, position = _varint(raw, position)
        number, sort = key >> 3, key & 7
        size, position = _varint(raw, position) if sort in (0, 2) else ({1: 8, 5: 4}[sort], position)
        if sort == 0:
            continue
        if position + size > len(raw):
            raise IndexError(size)
        if sort == 2:
            found.append((number, raw[position : position + size]))
        position += size
    return found


def _varint(raw: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
