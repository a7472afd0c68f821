"""What the kubelet writes into the volumes that it fills: ConfigMaps, Secrets, pod fields, tokens. Pure.

A volume's content is a mapping from relative paths to entries; where a container sees it is a matter of its mounts.
"""

import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tproxy.env.archive import File, is_plain_path
from tproxy.env.spec import Lookup, Object, expand, key_of
from tproxy.env.spec import field as pod_field
from tproxy.errors import InvalidError

FILLED = ("configMap", "secret", "projected", "downwardAPI")
DEFAULT_MODE = 0o644

Token = Callable[[Object], bytes | None]
"""A service account token for the `serviceAccountToken` part of a projected volume; None if there is none to be had."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a volume."""

    data: bytes = field(repr=False)
    mode: int = DEFAULT_MODE


@dataclass(frozen=True, slots=True)
class Mount:
    """A volume in a container: where, which part of it, and whether it may be written."""

    path: str
    volume: Object
    inside: str
    read_only: bool


def mounts(spec: Object, container: Object, variables: Mapping[str, str]) -> list[Mount]:
    """The mounts of a container of a pod with this `spec`, in their order. Raises InvalidError."""
    volumes = {volume["name"]: volume for volume in spec.get("volumes") or ()}
    found = []
    for mount in container.get("volumeMounts") or ():
        if mount["name"] not in volumes:
            raise InvalidError(f"container {container['name']} mounts {mount['name']!r}, which is no volume")
        inside = mount.get("subPath") or expand(mount.get("subPathExpr") or "", variables)
        if inside and not is_plain_path(f"/{inside}"):
            raise InvalidError(f"subPath {inside[:256]!r} leads elsewhere")
        found.append(Mount(mount["mountPath"], volumes[mount["name"]], inside, bool(mount.get("readOnly"))))
    return found


def references(volume: Object) -> Iterator[tuple[str, str]]:
    """The ConfigMaps and Secrets that fill a volume: kind and name."""
    for source in _sources(volume):
        if "configMap" in source:
            yield "ConfigMap", _name_of(source["configMap"], "name")
        if "secret" in source:
            yield "Secret", _name_of(source["secret"], "secretName", "name")


def is_filled(volume: Object) -> bool:
    """Whether the kubelet fills it."""
    return any(kind in volume for kind in FILLED)


def content(volume: Object, pod: Object, lookup: Lookup, token: Token) -> dict[str, Entry]:
    """What the kubelet writes. Raises InvalidError for a source that is missing and not optional."""
    entries: dict[str, Entry] = {}
    for source in _sources(volume):
        for path, entry in _entries(source, pod, lookup, token):
            if not is_plain_path(f"/{path}") or path.startswith(".."):
                raise InvalidError(f"a volume cannot have a file called {path[:256]!r}")
            entries[path] = entry
    return entries


def files(spec: Object, container: Object, variables: Mapping[str, str], filled: Mapping[str, Any]) -> list[File]:
    """The files that a container sees in the volumes of `filled`: contents by the volumes' names."""
    found: dict[str, File] = {}
    for mount in mounts(spec, container, variables):
        top = posixpath.normpath(mount.path)
        for path, entry in filled.get(mount.volume["name"], {}).items():
            where = ""
            if path == mount.inside:
                where = top
            elif not mount.inside or path.startswith(f"{mount.inside}/"):
                where = f"{top}/{path[len(mount.inside) :].lstrip('/')}"
            if is_plain_path(where):
                found[where] = File(where, entry.data, bool(entry.mode & 0o111))
    return list(found.values())


def _sources(volume: Object) -> Iterable[Object]:
    """The parts of a volume, each with the modes of the whole."""
    if (projected := volume.get("projected")) is not None:
        mode = projected.get("defaultMode", DEFAULT_MODE)
        for source in projected.get("sources") or ():
            yield {**source, "mode": mode}
        return
    for kind in FILLED:
        if (source := volume.get(kind)) is not None:
            yield {kind: source, "mode": source.get("defaultMode", DEFAULT_MODE)}


def _entries(source: Object, pod: Object, lookup: Lookup, token: Token) -> Iterator[tuple[str, Entry]]:
    mode: int = source["mode"]
    for part, kind, names in (("configMap", "ConfigMap", ("name",)), ("secret", "Secret", ("secretName", "name"))):
        if (reference := source.get(part)) is not None:
            yield from _keys({**reference, "name": _name_of(reference, *names)}, kind, mode, lookup)
    if (fields := source.get("downwardAPI")) is not None:
        for item in fields.get("items") or ():
            if "fieldRef" in item:
                value = pod_field(pod, item["fieldRef"]["fieldPath"])
                yield item["path"], Entry(value.encode(), item.get("mode", mode))
    if (wanted := source.get("serviceAccountToken")) is not None:
        value_of_token = token(wanted)
        if value_of_token is not None:
            yield wanted["path"], Entry(value_of_token, 0o600)


def _keys(reference: Object, kind: str, mode: int, lookup: Lookup) -> Iterator[tuple[str, Entry]]:
    items = reference.get("items")
    if items:
        for item in items:
            value = key_of(reference, kind, item["key"], lookup)
            if value is not None:
                yield item["path"], Entry(value, item.get("mode", mode))
        return
    data = lookup(kind, reference["name"])
    if data is None and not reference.get("optional"):
        raise InvalidError(f'{kind.lower()} "{reference["name"]}" not found')
    for key, value in (data or {}).items():
        yield key, Entry(value, mode)


def _name_of(reference: Object, *names: str) -> str:
    return next((str(reference[name]) for name in names if reference.get(name)), "")
