"""Requests for objects: list, get, create, update, patch and delete, as calls of the store."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from tproxy.kube.port import NAMESPACES, PODS, SERVICES, Object
from tproxy.lab.api import patch, protobuf, schema, table
from tproxy.lab.api.errors import (
    BadRequestError,
    InvalidObjectError,
    UnsupportedMediaTypeError,
    invalid_value,
    status,
)
from tproxy.lab.api.request import RequestInfo
from tproxy.lab.api.resources import Kind
from tproxy.lab.api.store import Store

_PATCHES: Mapping[str, Callable[[Any, Any], Object]] = {
    "application/merge-patch+json": patch.merge,
    "application/strategic-merge-patch+json": patch.strategic_merge,
    "application/json-patch+json": patch.json_patch,
}


async def body(http: web.Request, plural: str = "") -> Any:
    """The decoded body, an empty object if there is none."""
    raw = await http.read()
    if not raw:
        return {}
    if http.content_type == protobuf.CONTENT_TYPE:
        return protobuf.decode(plural, raw)
    if "Content-Type" in http.headers and not http.content_type.endswith("json"):
        raise UnsupportedMediaTypeError(f"the body of the request was in an unknown format: {http.content_type}")
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BadRequestError(f"couldn't parse the body as JSON: {error}") from error


async def answer(http: web.Request, store: Store, info: RequestInfo, kind: Kind) -> tuple[Object, int]:
    """Do what the request asks. Returns a body and an HTTP status code."""
    query, resource = http.query, kind.resource
    dry_run = query.get("dryRun") == "All"
    if info.subresource == "scale":
        return await _scale(http, store, info, kind, dry_run), 200
    match info.verb:
        case "list":
            return _list(http, store, info, kind), 200
        case "get":
            return table.renderer(http, kind)(store.get(resource, info.name, info.namespace)), 200
        case "create" if not info.name:
            obj = _checked(info, kind, await body(http, info.plural), query)
            return store.create(resource, obj, info.namespace, dry_run), 201
        case "update" if info.name:
            obj = _checked(info, kind, await body(http), query)
            version = obj["metadata"].get("resourceVersion")
            if kind.schema is not None and not version:
                why = invalid_value("metadata.resourceVersion", version, "must be specified for an update")
                raise InvalidObjectError(resource, info.name, [why])
            return store.update(resource, obj, info.namespace, info.subresource, dry_run), 200
        case "patch" if info.name:
            apply, content = _patch_of(http), await body(http)
            namespace, subresource = info.namespace, info.subresource
            new = store.modify(resource, info.name, lambda obj: apply(obj, content), namespace, subresource, dry_run)
            return new, 200
        case "delete" if not info.subresource:
            return _delete(store, info, kind, info.name, await _options(http)), 200
        case "deletecollection":
            options = await _options(http)
            gone = _list(http, store, info, kind, as_table=False)
            for obj in gone["items"]:
                _delete(store, info, kind, obj["metadata"]["name"], options)
            return gone, 200
    failure = status(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    return failure, 405


def _list(http: web.Request, store: Store, info: RequestInfo, kind: Kind, as_table: bool = True) -> Object:
    labels, fields = http.query.get("labelSelector", ""), http.query.get("fieldSelector", "")
    items, version = store.list(kind.resource, info.namespace, labels, fields), str(store.version)
    if as_table and table.wanted(http):
        return table.table(kind, items, version, http.query.get("includeObject", "Metadata"))
    return {
        "kind": f"{kind.resource.kind}List",
        "apiVersion": kind.resource.api_version,
        "metadata": {"resourceVersion": version},
        "items": items,
    }


def _checked(info: RequestInfo, kind: Kind, obj: Any, query: Mapping[str, str]) -> Object:
    """The object of a request, if it is of the kind, namespace and name that the path says."""
    resource = kind.resource
    if not isinstance(obj, dict) or not isinstance(obj.get("metadata", {}), dict):
        raise BadRequestError("the body is not an object with metadata")
    metadata = obj.setdefault("metadata", {})
    said = obj.get("apiVersion", resource.api_version), obj.get("kind", resource.kind)
    if said != (resource.api_version, resource.kind):
        wanted = f"{resource.api_version}, {resource.kind}"
        raise BadRequestError(f"the object is {said[0]}, {said[1]}, but the path takes {wanted}"[:512])
    if info.namespace and metadata.get("namespace") not in (None, "", info.namespace, info.name):
        raise BadRequestError("the namespace of the provided object does not match the namespace sent on the request")
    if info.name and metadata.setdefault("name", info.name) != info.name:
        raise BadRequestError(
            f"the name of the object ({metadata['name']}) does not match the name on the URL ({info.name})"
        )
    if kind.schema is not None and query.get("fieldValidation") == "Strict":
        schema.refuse_unknown_fields(kind.schema, obj)
    return obj


async def _scale(http: web.Request, store: Store, info: RequestInfo, kind: Kind, dry_run: bool) -> Object:
    if info.verb == "get":
        return _scale_of(store.get(kind.resource, info.name, info.namespace))
    content = await body(http)
    apply = _patch_of(http) if info.verb == "patch" else lambda _, new: new

    def change(deployment: Object) -> Object:
        scale: Object = apply(_scale_of(deployment), content)
        spec = deployment["spec"] | {"replicas": scale.get("spec", {}).get("replicas", 0)}
        return deployment | {"spec": spec}

    return _scale_of(store.modify(kind.resource, info.name, change, info.namespace, dry_run=dry_run))


def _scale_of(deployment: Object) -> Object:
    metadata, selector = deployment["metadata"], deployment["spec"]["selector"]["matchLabels"]
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {key: metadata[key] for key in kept},
        "spec": {"replicas": deployment["spec"]["replicas"]},
        "status": {
            "replicas": deployment.get("status", {}).get("replicas", 0),
            "selector": ",".join(f"{key}={value}" for key, value in selector.items()),
        },
    }


def _patch_of(http: web.Request) -> Callable[[Any, Any], Object]:
    apply = _PATCHES.get(http.content_type)
    if apply is None:
        raise UnsupportedMediaTypeError(f"the lab does not apply patches of type {http.content_type}")
    return apply


async def _options(http: web.Request) -> Object:
    options = await body(http)
    if not isinstance(options, dict):
        raise BadRequestError("DeleteOptions are an object")
    return {"dryRun": http.query.getall("dryRun", [])} | dict(http.query) | options


def _delete(store: Store, info: RequestInfo, kind: Kind, name: str, options: Object) -> Object:
    preconditions = options.get("preconditions") or {}
    if options.get("propagationPolicy") == "Orphan" or options.get("orphanDependents"):
        raise BadRequestError("the lab deletes dependents in the background; it leaves no orphans")
    try:
        grace = options.get("gracePeriodSeconds")
        grace = None if grace is None or kind.resource == NAMESPACES else max(int(grace), 0)
    except (TypeError, ValueError) as error:
        raise BadRequestError("gracePeriodSeconds: a number is needed") from error
    gone = store.delete(
        kind.resource,
        name,
        info.namespace,
        uid=preconditions.get("uid") or "",
        resource_version=preconditions.get("resourceVersion") or "",
        grace_seconds=grace,
        dry_run="All" in options["dryRun"],
    )
    held = gone["metadata"].get("deletionGracePeriodSeconds") or gone["metadata"].get("finalizers")
    if held or kind.resource in (PODS, SERVICES):
        return gone
    details = info.details | {"name": name, "uid": gone["metadata"]["uid"]}
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
