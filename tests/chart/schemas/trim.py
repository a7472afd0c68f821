"""Cut what the chart renders out of Kubernetes' own OpenAPI document, which its Go module carries.

$ python tests/chart/schemas/trim.py "$(go mod download -json k8s.io/kubernetes@v1.34.4 | jq -r .Dir)" \
      >tests/chart/schemas/kubernetes-1.34.json

What comes out is JSON Schema, made strict: unknown fields are refused, as by `kubectl --validate=strict`.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

KINDS = {
    "": ("Namespace", "Pod", "ResourceQuota", "Service", "ServiceAccount"),
    "admissionregistration.k8s.io": ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"),
    "apiextensions.k8s.io": ("CustomResourceDefinition",),
    "apps": ("DaemonSet",),
    "networking.k8s.io": ("NetworkPolicy",),
    "rbac.authorization.k8s.io": ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"),
}
_REFERENCE = "#/definitions/"
# These have a form of their own on the wire, which the document does not tell.
_FORMS: dict[str, dict[str, Any]] = {
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {"type": ["string", "integer"]},
    "io.k8s.apimachinery.pkg.api.resource.Quantity": {"type": ["string", "number"]},
}


def references(schema: object) -> Iterator[str]:
    """Names of the definitions that a schema mentions."""
    if isinstance(schema, dict):
        if isinstance(reference := schema.get("$ref"), str):
            yield reference.removeprefix(_REFERENCE)
        for value in schema.values():
            yield from references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from references(value)


def strict(schema: Any) -> Any:
    """Without words for people and Kubernetes' own keys, and closed to unknown fields."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {
        key: {name: strict(inner) for name, inner in value.items()} if key == "properties" else strict(value)
        for key, value in schema.items()
        if key != "format" and not (key == "description" and isinstance(value, str)) and not key.startswith("x-")
    }
    if "properties" in kept:
        kept.setdefault("additionalProperties", False)
    return kept


def trim(document: dict[str, Any]) -> dict[str, Any]:
    """A JSON Schema document with a definition `GROUP.VERSION.KIND` for each kind, and those they need."""
    known = document["definitions"]
    roots = {}
    for name, definition in known.items():
        for kind in definition.get("x-kubernetes-group-version-kind", ()):
            if kind["version"] == "v1" and kind["kind"] in KINDS.get(kind["group"], ()):
                api_version = f"{kind['group']}/v1" if kind["group"] else "v1"
                roots[api_version.replace("/", ".") + "." + kind["kind"]] = name
    needed: dict[str, Any] = {}
    ahead = list(roots.values())
    while ahead:
        name = ahead.pop()
        if name not in needed:
            needed[name] = _FORMS.get(name) or strict(known[name])
            ahead += references(needed[name])
    for kind, name in roots.items():
        needed[kind] = {"$ref": _REFERENCE + name}
    return {"definitions": dict(sorted(needed.items()))}


if __name__ == "__main__":
    found = json.loads((Path(sys.argv[1]) / "api/openapi-spec/swagger.json").read_text())
    json.dump(trim(found), sys.stdout, indent=1, sort_keys=True)
    print()
