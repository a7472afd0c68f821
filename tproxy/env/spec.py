"""A container's environment and arguments as Kubernetes defines them: values, references, `$(NAME)`. All pure.

ConfigMaps and Secrets come as a `Lookup`. Bytes in a value that are no UTF-8 come through as surrogates (PEP 383).
"""

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tproxy.errors import InvalidError

Object = Mapping[str, Any]
Lookup = Callable[[str, str], Mapping[str, bytes] | None]
"""The data of a ConfigMap or Secret of the pod's namespace, by kind and name; None if there is none."""

_REFERENCE = re.compile(r"\$(\$|\(([-._a-zA-Z0-9]+)\))")
_KEYED = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")
_FIELDS = {
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.podIP",
}


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace `$(NAME)`; an unknown name stays as it is and `$$` is one dollar sign."""

    def replaced(match: re.Match[str]) -> str:
        if match[1] == "$":
            return "$"
        return variables.get(match[2], match[0])

    return _REFERENCE.sub(replaced, text)


def data_of(obj: Object) -> dict[str, bytes]:
    """What a ConfigMap or Secret holds. Raises InvalidError if it is not what the API server would send."""
    secret = obj.get("kind") == "Secret"
    try:
        plain = {} if secret else {key: value.encode() for key, value in (obj.get("data") or {}).items()}
        encoded = (obj.get("data") if secret else obj.get("binaryData")) or {}
        return plain | {key: base64.b64decode(value, validate=True) for key, value in encoded.items()}
    except (AttributeError, TypeError, binascii.Error) as error:
        raise InvalidError("an object whose data is not what it should be") from error


def environment(base: Mapping[str, str], container: Object, pod: Object, lookup: Lookup) -> dict[str, str]:
    """`base`, then `envFrom`, then `env` in their order. Raises InvalidError for what cannot be resolved."""
    variables = dict(base)
    for source in container.get("envFrom") or ():
        variables |= _all_of(source, lookup)
    for entry in container.get("env") or ():
        name = entry["name"]
        if "valueFrom" not in entry:
            variables[name] = expand(entry.get("value") or "", variables)
        elif (value := _referenced(name, entry["valueFrom"], pod, lookup)) is not None:
            variables[name] = value
    return variables


def command_line(container: Object, variables: Mapping[str, str]) -> Sequence[str]:
    """`command` and `args`, expanded. Raises InvalidError without a command: the lab has no images to take it from."""
    if not container.get("command"):
        raise InvalidError(
            f"container {container['name']} has no command, and the lab does not run images",
            "give the container a `command`, for example `[python, -m, http.server]`",
        )
    return [expand(part, variables) for part in (*container["command"], *(container.get("args") or ()))]


def key_of(reference: Object, kind: str, key: str, lookup: Lookup) -> bytes | None:
    """One value of a ConfigMap or Secret; None if it is optional and not there. Raises InvalidError otherwise."""
    data = lookup(kind, reference["name"])
    if data is not None and key in data:
        return data[key]
    if reference.get("optional"):
        return None
    missing = "not found" if data is None else f"has no key {key!r}"
    raise InvalidError(f'{kind.lower()} "{reference["name"]}" {missing}')


def _all_of(source: Object, lookup: Lookup) -> dict[str, str]:
    for part, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
        if (reference := source.get(part)) is not None:
            data = lookup(kind, reference["name"])
            if data is None and not reference.get("optional"):
                raise InvalidError(f'{kind.lower()} "{reference["name"]}" not found')
            return {source.get("prefix", "") + key: _text(value) for key, value in (data or {}).items()}
    raise InvalidError("only configMapRef and secretRef are known in envFrom")


def _referenced(name: str, source: Object, pod: Object, lookup: Lookup) -> str | None:
    if "fieldRef" in source:
        return field(pod, source["fieldRef"]["fieldPath"])
    for part, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
        if (reference := source.get(part)) is not None:
            value = key_of(reference, kind, reference["key"], lookup)
            return None if value is None else _text(value)
    raise InvalidError(f"environment variable {name}: only fieldRef, configMapKeyRef and secretKeyRef are known")


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def field(pod: Object, path: str) -> str:
    """A pod's field as the downward API names it. Raises InvalidError for one it does not offer."""
    if path in ("metadata.labels", "metadata.annotations"):
        pairs = pod["metadata"].get(path.partition(".")[2]) or {}
        return "\n".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in sorted(pairs.items()))
    if (keyed := _KEYED.fullmatch(path)) is not None:
        return str((pod["metadata"].get(keyed[1]) or {}).get(keyed[2], ""))
    if path == "status.podIPs":
        return ",".join(_texts(pod.get("status", {}).get("podIPs")))
    if path not in _FIELDS:
        raise InvalidError(f"unsupported fieldPath {path[:256]!r}")
    section, name = path.split(".")
    default = "default" if name == "serviceAccountName" else ""
    return str((pod.get(section) or {}).get(name, default))


def _texts(addresses: Iterable[Mapping[str, str]] | None) -> list[str]:
    return [address["ip"] for address in addresses or ()]
