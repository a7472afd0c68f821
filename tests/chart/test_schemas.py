"""Every rendered object is one that Kubernetes knows, field by field, by its own OpenAPI document (schemas/trim.py)."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.chart.rendering import SCENARIOS, Helm, Object, scenario_version

DOCUMENT: dict[str, Any] = json.loads((Path(__file__).parent / "schemas" / "kubernetes-1.34.json").read_text())
# Not Kubernetes' own: the Prometheus operator's, whose definition is checked by the operator.
FOREIGN = {"monitoring.coreos.com.v1.ServiceMonitor"}


def complaints(obj: Object) -> list[str]:
    """What is wrong with an object."""
    kind = f"{obj['apiVersion'].replace('/', '.')}.{obj['kind']}"
    if kind not in DOCUMENT["definitions"]:
        return [] if kind in FOREIGN else [f"{kind} is not known"]
    schema = {"$ref": f"#/definitions/{kind}", **DOCUMENT}
    errors = jsonschema.Draft7Validator(schema).iter_errors(obj)
    return [f"{kind} {obj['metadata']['name']}: {error.json_path}: {error.message}" for error in errors]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda file: file.name)
def test_objects_are_known_and_whole(helm: Helm, scenario: Path) -> None:
    objects = helm.objects(scenario, kubernetes=scenario_version(scenario))
    assert [complaint for obj in objects for complaint in complaints(obj)] == []
    names = [(obj["kind"], obj["metadata"].get("namespace"), obj["metadata"]["name"]) for obj in objects]
    assert len(set(names)) == len(names)


def daemon_set(helm: Helm) -> Object:
    return next(obj for obj in helm.objects() if obj["kind"] == "DaemonSet")


def test_a_misspelt_field_is_noticed(helm: Helm) -> None:
    obj = daemon_set(helm)
    obj["spec"]["template"]["spec"]["containers"][0]["securtyContext"] = {}
    assert [text for text in complaints(obj) if "securtyContext" in text]


def test_a_wrong_type_and_a_missing_field_are_noticed(helm: Helm) -> None:
    obj = daemon_set(helm)
    obj["spec"]["minReadySeconds"] = "5"
    del obj["spec"]["selector"]
    assert len(complaints(obj)) == 2
