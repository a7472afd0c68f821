"""A container's environment and arguments as Kubernetes defines them: values, references, `$(NAME)`. All pure."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tproxy.errors import InvalidError
from tproxy.kube.port import Object

ConfigMaps = Callable[[str], Mapping[str, str] | None]
"""The data of a ConfigMap of the pod's namespace, or None if there is no such ConfigMap."""

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


def environment(
    base: Mapping[str, str], container: Mapping[str, Any], pod: Object, config_maps: ConfigMaps
) -> dict[str, str]:
    """`base`, then `envFrom`, then `env` in their order. Raises InvalidError for what the lab cannot resolve."""
    variables = dict(base)
    for source in container.get("envFrom") or ():
        variables |= _all_of(source, config_maps)
    for entry in container.get("env") or ():
        name = entry["name"]
        if "valueFrom" not in entry:
            variables[name] = expand(entry.get("value") or "", variables)
        elif (value := _referenced(name, entry["valueFrom"], pod, config_maps)) is not None:
            variables[name] = value
    return variables


def command_line(container: Mapping[str, Any], variables: Mapping[str, str]) -> Sequence[str]:
    """`command` and `args`, expanded. Raises InvalidError without a command: the lab has no images to take it from."""
    if not container.get("command"):
        raise InvalidError(
            f"container {container['name']} has no command, and the lab does not run images",
            "give the container a `command`, for example `[python, -m, http.server]`",
        )
    return [expand(part, variables) for part in (*container["command"], *(container.get("args") or ()))]


def _all_of(source: Mapping[str, Any], config_maps: ConfigMaps) -> dict[str, str]:
    reference = source.get("configMapRef")
    if reference is None:
        raise InvalidError("the lab resolves only configMapRef in envFrom")
    data = config_maps(reference["name"])
    if data is None and not reference.get("optional"):
        raise InvalidError(f'configmap "{reference["name"]}" not found')
    return {source.get("prefix", "") + key: value for key, value in (data or {}).items()}


def _referenced(name: str, source: Mapping[str, Any], pod: Object, config_maps: ConfigMaps) -> str | None:
    if "fieldRef" in source:
        return field(pod, source["fieldRef"]["fieldPath"])
    if "configMapKeyRef" in source:
        reference = source["configMapKeyRef"]
        data = config_maps(reference["name"]) or {}
        if reference["key"] in data:
            return data[reference["key"]]
        if reference.get("optional"):
            return None
        raise InvalidError(f'configmap "{reference["name"]}" has no key {reference["key"]!r}')
    raise InvalidError(f"environment variable {name}: the lab resolves only fieldRef and configMapKeyRef")


def field(pod: Object, path: str) -> str:
    """A pod's field as the downward API names it. Raises InvalidError for one it does not offer."""
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
