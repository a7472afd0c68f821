"""The lab's objects: in memory, versioned, watched.

                 create/update/patch/delete
    REST, stage, controllers ─────────────► table of one kind ──► bounded log ◄── watchers, each a position in it

Calls are synchronous and atomic: the lab server is one thread, and everything in it (REST, kubelet, controllers) uses
this store directly. Watchers own no queue; one that falls behind the log starts afresh (`watch`) or gets
ExpiredError (`changes`), so memory is bounded however slow a reader is. Objects handed out are copies.
"""

import asyncio
import re
import secrets
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tproxy.errors import DeniedError
from tproxy.kube.errors import AlreadyExistsError, NotFoundError, StaleError
from tproxy.kube.port import NAMESPACES, NODES, PODS, Applied, Object, Removed, Resource, Synced, WatchEvent
from tproxy.lab.api import patch as patches
from tproxy.lab.api import selectors
from tproxy.lab.api.errors import BadRequestError, Cause, ExpiredError, InvalidObjectError, invalid_value
from tproxy.lab.api.resources import Kind

Key = tuple[str, str]
"""Namespace (empty for cluster-wide kinds) and name."""

Admission = Callable[[Kind, Object, Object | None], None]
"""Completes a new or changed object in place, or raises InvalidObjectError; the last argument is the object before."""

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_SUFFIX = "bcdfghjklmnpqrstvwxz2456789"
_SYSTEM_METADATA = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation")


@dataclass(frozen=True, slots=True)
class Change:
    """One write: the object before (None if created), after (None if deleted), and its resource version."""

    version: int
    before: Object | None
    after: Object | None
    last: Object


@dataclass(slots=True)
class _Table:
    kind: Kind
    objects: dict[Key, Object] = field(default_factory=dict)
    log: deque[Change] = field(default_factory=deque)
    floor: int = 0
    version: int = 0


def now(after_seconds: int = 0) -> str:
    """The time as objects carry it, `after_seconds` from now."""
    return (datetime.now(UTC) + timedelta(seconds=after_seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def suffix(length: int = 5) -> str:
    """Random letters as Kubernetes appends to generated names."""
    return "".join(secrets.choice(_SUFFIX) for _ in range(length))


def _status_of(kind: Kind, old: Object, new: Object) -> Object:
    """What a change of the status may change: of built-in kinds labels and annotations too."""
    result = {**copied(old), "status": new.get("status", {})}
    for key in ("labels", "annotations") if kind.schema is None else ():
        result["metadata"].pop(key, None)
        if key in new["metadata"]:
            result["metadata"][key] = new["metadata"][key]
    return result


def copied(value: Any) -> Any:
    """A deep copy of decoded JSON; several times faster than copy.deepcopy."""
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    return [copied(item) for item in value] if isinstance(value, list) else value


def key_of(obj: Object) -> Key:
    """Namespace and name of an object."""
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


class Store:
    """Objects of the given kinds. `history` is how many changes per kind a watcher may lag behind."""

    def __init__(self, kinds: Iterable[Kind], history: int = 1024) -> None:
        self._tables = {kind.resource: _Table(kind) for kind in kinds}
        self._history = history
        self._changed = asyncio.Event()
        self.version = 1
        self.admission: list[Admission] = []

    @property
    def kinds(self) -> Sequence[Kind]:
        """What is served here."""
        return [table.kind for table in self._tables.values()]

    def get(self, resource: Resource, name: str, namespace: str = "") -> Object:
        """Read one object. Raises NotFoundError."""
        found: Object = copied(self._find(resource, namespace, name))
        return found

    def list(self, resource: Resource, namespace: str = "", labels: str = "", fields: str = "") -> list[Object]:
        """All objects, of every namespace if `namespace` is empty, that match both selectors."""
        matches = selectors.matcher(resource.kind, labels, fields)
        return [copied(obj) for obj in self._objects(resource, namespace) if matches(obj)]

    def create(self, resource: Resource, body: Object, namespace: str = "", dry_run: bool = False) -> Object:
        """Store a new object. Raises AlreadyExistsError, InvalidError, and for its namespace NotFoundError."""
        kind, obj = self._table(resource).kind, copied(body)
        metadata = obj.setdefault("metadata", {})
        naming = ("name", "generateName", "namespace")
        if not isinstance(metadata, dict) or not all(isinstance(metadata.get(key) or "", str) for key in naming):
            raise BadRequestError("the object's metadata make no sense")
        if resource.namespaced:
            metadata["namespace"] = self._admitted_namespace(namespace or metadata.get("namespace") or "default")
        else:
            metadata.pop("namespace", None)
        if not metadata.get("generateName"):
            metadata.pop("generateName", None)
        elif not metadata.get("name"):
            metadata["name"] = metadata["generateName"] + suffix()
        name = metadata.get("name") or ""
        if not _NAME.fullmatch(name):
            why = invalid_value("metadata.name", name, "a lowercase RFC 1123 subdomain is needed")
            raise InvalidObjectError(resource, name[:256], [why])
        if key_of(obj) in self._table(resource).objects:
            raise AlreadyExistsError(f'{title(resource)} "{name}" already exists')
        for system in (*_SYSTEM_METADATA, "resourceVersion", "selfLink"):
            metadata.pop(system, None)
        metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": now(), "generation": 1}
        obj |= {"apiVersion": resource.api_version, "kind": resource.kind}
        # Kubelets register nodes together with their status; nobody else may set one while creating.
        if kind.status and resource != NODES:
            obj.pop("status", None)
        self._admit(kind, obj, None)
        return self._put(resource, obj, None, dry_run)

    def update(
        self, resource: Resource, body: Object, namespace: str = "", subresource: str = "", dry_run: bool = False
    ) -> Object:
        """Replace an object. Raises StaleError if `body` carries an outdated resourceVersion, or another's uid."""
        name = body.get("metadata", {}).get("name", "")
        namespace = namespace or body.get("metadata", {}).get("namespace", "")
        return self.modify(resource, name, lambda _: copied(body), namespace, subresource, dry_run)

    def patch(self, resource: Resource, name: str, body: Object, namespace: str = "", subresource: str = "") -> Object:
        """JSON merge patch. `subresource` is empty or `status`. Raises NotFoundError, StaleError, InvalidError."""
        return self.modify(resource, name, lambda old: patches.merge(old, body), namespace, subresource)

    def modify(
        self,
        resource: Resource,
        name: str,
        change: Callable[[Object], Object],
        namespace: str = "",
        subresource: str = "",
        dry_run: bool = False,
    ) -> Object:
        """Replace an object by `change` of a copy of it; what the subresource may not touch stays as it is."""
        kind, old = self._table(resource).kind, self._find(resource, namespace, name)
        new = change(copied(old))
        if not isinstance(new, dict) or not isinstance(new.get("metadata"), dict):
            raise BadRequestError("the object has no metadata")
        self._check_current(resource, old, new["metadata"].get("uid"), new["metadata"].get("resourceVersion"))
        if kind.status and subresource == "status":
            new = _status_of(kind, old, new)
        else:
            if kind.status:
                new.pop("status", None)
                new |= {"status": copied(old["status"])} if "status" in old else {}
            self._keep_identity(resource, old, new)
        self._admit(kind, new, old)
        # Only now: defaults that the change left out have been filled in again.
        if _desired(old) != _desired(new):
            new["metadata"]["generation"] = old["metadata"]["generation"] + 1
        new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"]
        if new == old:
            return new
        return self._put(resource, new, old, dry_run)

    def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str = "",
        uid: str = "",
        resource_version: str = "",
        grace_seconds: int | None = None,
        dry_run: bool = False,
    ) -> Object:
        """Delete an object, if `uid` and `resource_version` are given only while they hold. Returns its last form.

        A pod on a node and a namespace are only marked (`deletionTimestamp`); whoever has ended what runs there calls
        again with `grace_seconds=0`. Finalizers hold any object until they are removed from it. Raises NotFoundError,
        StaleError.
        """
        old = self._find(resource, namespace, name)
        self._check_current(resource, old, uid, resource_version, "Precondition failed: ")
        grace = self._grace(resource, old) if grace_seconds is None else grace_seconds
        marked = copied(old)
        metadata = marked["metadata"]
        previous = metadata.get("deletionGracePeriodSeconds")
        if "deletionTimestamp" not in metadata or (previous is not None and grace < previous):
            metadata |= {"deletionTimestamp": now(grace), "deletionGracePeriodSeconds": grace}
            if resource == NAMESPACES:
                marked["status"] = {"phase": "Terminating"}
        return marked if marked == old else self._put(resource, marked, old, dry_run)

    async def watch(
        self, resource: Resource, namespace: str = "", labels: str = "", fields: str = ""
    ) -> AsyncIterator[WatchEvent]:
        """What exists, Synced, then every change for ever. Loses nothing: a late reader skips to the present."""
        matches = selectors.matcher(resource.kind, labels, fields)
        known: dict[Key, Object] = {}
        while True:
            version, present = self.version, self.list(resource, namespace, labels, fields)
            for gone in known.keys() - {key_of(obj) for obj in present}:
                yield Removed(known.pop(gone))
            for obj in present:
                known[key_of(obj)] = obj
                yield Applied(copied(obj))
            yield Synced()
            try:
                while True:
                    for change in self.changes(resource, version):
                        version = change.version
                        if namespace in ("", change.last["metadata"].get("namespace", "")):
                            if change.after is not None and matches(change.after):
                                known[key_of(change.last)] = change.last
                                yield Applied(copied(change.after))
                            elif known.pop(key_of(change.last), None) is not None:
                                yield Removed(copied(change.last))
                    await self.wait([resource], version)
            except ExpiredError:
                continue

    def changes(self, resource: Resource, after: int) -> Sequence[Change]:
        """The changes later than resource version `after`, oldest first, to be read only. Raises ExpiredError."""
        table = self._table(resource)
        if after < table.floor:
            raise ExpiredError(f"too old resource version: {after} ({table.floor})")
        found = []
        for change in reversed(table.log):
            if change.version <= after:
                break
            found.append(change)
        return found[::-1]

    def forget(self) -> None:
        """Keep no history: whoever wants changes since an earlier version hears that it is too old."""
        self.version += 1
        for table in self._tables.values():
            table.log.clear()
            table.floor = self.version

    async def wait(self, resources: Iterable[Resource], after: int) -> None:
        """Return once any of `resources` has a change later than resource version `after`."""
        tables = [self._table(resource) for resource in resources]
        while all(table.version <= after for table in tables):
            await self._changed.wait()

    def _table(self, resource: Resource) -> _Table:
        if (table := self._tables.get(resource)) is None:
            raise NotFoundError("the server could not find the requested resource")
        return table

    def _find(self, resource: Resource, namespace: str, name: str) -> Object:
        key = (namespace or "default" if resource.namespaced else "", name)
        if (obj := self._table(resource).objects.get(key)) is None:
            raise NotFoundError(f'{title(resource)} "{name}" not found')
        return obj

    def _objects(self, resource: Resource, namespace: str) -> Sequence[Object]:
        objects = self._table(resource).objects
        return [objects[key] for key in sorted(objects) if namespace in ("", key[0])]

    def _admitted_namespace(self, namespace: str) -> str:
        if "deletionTimestamp" in self._find(NAMESPACES, "", namespace)["metadata"]:
            raise DeniedError(f"unable to create new content in namespace {namespace} because it is being terminated")
        return namespace

    def _admit(self, kind: Kind, obj: Object, before: Object | None) -> None:
        for admission in self.admission:
            admission(kind, obj, before)

    def _check_current(self, resource: Resource, old: Object, uid: object, version: object, reason: str = "") -> None:
        metadata = old["metadata"]
        if uid and uid != metadata["uid"]:
            reason += f"UID in precondition: {uid}, UID in object meta: {metadata['uid']}"
        elif version and version not in ("0", metadata["resourceVersion"]):
            reason += "the object has been modified; please apply your changes to the latest version and try again"
        else:
            return
        raise StaleError(f'Operation cannot be fulfilled on {title(resource)} "{metadata["name"]}": {reason}')

    def _keep_identity(self, resource: Resource, old: Object, new: Object) -> None:
        before, after = old["metadata"], new["metadata"]
        if after.get("name", before["name"]) != before["name"]:
            why = Cause("metadata.name", "FieldValueInvalid", "field is immutable")
            raise InvalidObjectError(resource, before["name"], [why])
        for name in ("name", "namespace", "generateName", *_SYSTEM_METADATA):
            after.pop(name, None)
            if name in before:
                after[name] = before[name]
        new |= {"apiVersion": resource.api_version, "kind": resource.kind}

    def _grace(self, resource: Resource, obj: Object) -> int:
        if resource == NAMESPACES:
            return 30
        finished = obj.get("status", {}).get("phase") in ("Succeeded", "Failed")
        if resource == PODS and obj["spec"].get("nodeName") and not finished:
            return int(obj["spec"].get("terminationGracePeriodSeconds", 30))
        return 0

    def _put(self, resource: Resource, obj: Object, before: Object | None, dry_run: bool) -> Object:
        metadata = obj["metadata"]
        ended = (
            "deletionTimestamp" in metadata
            and not metadata.get("finalizers")
            and not metadata.get("deletionGracePeriodSeconds")
        )
        if not dry_run:
            self.version += 1
            metadata["resourceVersion"] = str(self.version)
            table = self._table(resource)
            if ended:
                table.objects.pop(key_of(obj), None)
            else:
                table.objects[key_of(obj)] = obj
            table.log.append(Change(self.version, before, None if ended else obj, obj))
            while len(table.log) > self._history:
                table.floor = table.log.popleft().version
            table.version = self.version
            self._changed.set()
            self._changed = asyncio.Event()
        stored: Object = copied(obj)
        return stored


def title(resource: Resource) -> str:
    """`pods` or `deployments.apps`, as messages name a resource."""
    return f"{resource.plural}.{resource.group}" if resource.group else resource.plural


def _desired(obj: Object) -> Object:
    return {key: value for key, value in obj.items() if key not in ("metadata", "status", "apiVersion", "kind")}
