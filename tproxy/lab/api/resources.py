"""The kinds that the lab serves, with what the API tells about each of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tproxy.errors import ClusterError
from tproxy.kube.port import (
    CONFIGMAPS,
    DEPLOYMENTS,
    ENDPOINTSLICES,
    NAMESPACES,
    NODES,
    PODS,
    SECRETS,
    SERVICES,
    Resource,
)

CHART_FILES = Path(__file__).resolve().parents[3] / "charts" / "tproxy" / "files"
CRD_DIRECTORY = CHART_FILES / "crds"
"""The chart's own definitions, so that the lab refuses what a cluster with the chart refuses."""


@dataclass(frozen=True, slots=True)
class Column:
    """One printer column of a custom resource: title, type, and the JSON path that fills it."""

    name: str
    type: str
    path: str
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Kind:
    """A resource and its traits. `schema` is the structural schema of custom resources, else None."""

    resource: Resource
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    status: bool = False
    columns: tuple[Column, ...] = ()
    schema: Mapping[str, Any] | None = field(default=None, repr=False)


def builtin_kinds() -> list[Kind]:
    """The kinds that every cluster has, as far as the lab knows them."""
    return [
        Kind(NAMESPACES, ("ns",), status=True),
        Kind(NODES, ("no",), status=True),
        Kind(PODS, ("po",), ("all",), status=True),
        Kind(SERVICES, ("svc",), ("all",), status=True),
        Kind(CONFIGMAPS, ("cm",)),
        Kind(SECRETS),
        Kind(DEPLOYMENTS, ("deploy",), ("all",), status=True),
        Kind(ENDPOINTSLICES),
    ]


def custom_kinds(directory: Path = CRD_DIRECTORY) -> list[Kind]:
    """Read every CustomResourceDefinition in `directory`. Raises ClusterError if there is none."""
    kinds = []
    for path in sorted(directory.glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            if document and document.get("kind") == "CustomResourceDefinition":
                kinds.extend(_kinds_of(document["spec"]))
    if not kinds:
        raise ClusterError(f"no CustomResourceDefinition in {directory}", "run the lab from a checkout of tproxy")
    return kinds


def _kinds_of(spec: Mapping[str, Any]) -> list[Kind]:
    names = spec["names"]
    return [
        Kind(
            Resource(spec["group"], version["name"], names["plural"], names["kind"], spec["scope"] == "Namespaced"),
            tuple(names.get("shortNames", ())),
            tuple(names.get("categories", ())),
            status="status" in version.get("subresources", {}),
            columns=tuple(
                Column(column["name"], column["type"], column["jsonPath"], column.get("priority", 0))
                for column in version.get("additionalPrinterColumns", ())
            ),
            schema=version["schema"]["openAPIV3Schema"],
        )
        for version in spec["versions"]
        if version["served"]
    ]
