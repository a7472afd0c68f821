"""What the server tells about itself: version, groups, resources, and as much OpenAPI as kubectl wants to see."""

from collections.abc import Iterable, Mapping
from typing import Any

from tproxy.kube.port import DEPLOYMENTS, PODS, Object, Resource
from tproxy.lab.api.resources import Kind

REVIEWS = (
    Resource("authentication.k8s.io", "v1", "selfsubjectreviews", "SelfSubjectReview", namespaced=False),
    Resource("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", namespaced=False),
)
"""Questions about the caller: created, answered, never stored."""

VERSION = {"major": "1", "minor": "33", "gitVersion": "v1.33.0+tproxy.lab", "platform": "linux/amd64"} | {
    name: "" for name in ("gitCommit", "gitTreeState", "buildDate", "goVersion", "compiler")
}

OPENAPI_V2 = b"\n\x032.0"
"""An OpenAPI 2 document without content, in the protobuf that kubectl reads it in: it then validates nothing itself."""

_OBJECT_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
_SUBRESOURCES = {
    PODS: {"log": ["get"], "portforward": ["create", "get"]},
    DEPLOYMENTS: {"scale": ["get", "patch", "update"]},
}


def documents(kinds: Iterable[Kind]) -> Mapping[str, Object]:
    """Every discovery document by its path."""
    by_version: dict[str, list[Kind]] = {}
    for kind in [*kinds, *(Kind(review) for review in REVIEWS)]:
        by_version.setdefault(kind.resource.api_version, []).append(kind)
    paths: dict[str, Object] = {
        "/version": dict(VERSION),
        "/api": {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
        "/openapi/v3": {"paths": {}},
    }
    for api_version, members in by_version.items():
        prefix = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
        paths[prefix] = {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": api_version,
            "resources": [entry for kind in members for entry in _resources(kind)],
        }
        paths["/openapi/v3"]["paths"][prefix[1:]] = {"serverRelativeURL": f"/openapi/v3{prefix}"}
        paths[f"/openapi/v3{prefix}"] = _openapi(prefix, members)
        if group := members[0].resource.group:
            version = {"groupVersion": api_version, "version": members[0].resource.version}
            paths[f"/apis/{group}"] = {
                "kind": "APIGroup",
                "apiVersion": "v1",
                "name": group,
                "versions": [version],
                "preferredVersion": version,
            }
            paths["/apis"]["groups"].append(paths[f"/apis/{group}"])
    return paths


def _resources(kind: Kind) -> Iterable[Object]:
    resource = kind.resource
    review = resource in REVIEWS
    entry: Object = {
        "name": resource.plural,
        "singularName": resource.kind.lower(),
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": ["create"] if review else _OBJECT_VERBS,
    }
    yield entry | {"shortNames": list(kind.short_names), "categories": list(kind.categories)}
    subresources = {"status": ["get", "patch", "update"]} if kind.status else {}
    for name, verbs in (subresources | _SUBRESOURCES.get(resource, {})).items():
        scale = {"group": "autoscaling", "version": "v1", "kind": "Scale"} if name == "scale" else {}
        yield entry | scale | {"name": f"{resource.plural}/{name}", "singularName": "", "verbs": verbs}


def _openapi(prefix: str, kinds: Iterable[Kind]) -> Object:
    """kubectl looks here whether the server itself refuses unknown fields, and if so leaves validation to it."""
    paths: dict[str, Any] = {}
    for resource in (kind.resource for kind in kinds):
        scope = "/namespaces/{namespace}" if resource.namespaced else ""
        gvk = {"group": resource.group, "version": resource.version, "kind": resource.kind}
        paths[f"{prefix}{scope}/{resource.plural}/{{name}}"] = {
            "patch": {
                "parameters": [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}],
                "responses": {},
                "x-kubernetes-group-version-kind": gvk,
            }
        }
    return {"openapi": "3.0.0", "info": {"title": "tproxy lab", "version": "v1"}, "paths": paths}
