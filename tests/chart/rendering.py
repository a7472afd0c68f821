"""The chart as Helm renders it."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "tproxy"
SCENARIOS = sorted((CHART / "ci").glob("*-values.yaml"))
POLICY = "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy"

Object = dict[str, Any]
Done = subprocess.CompletedProcess[str]


def find_helm() -> str:
    """$HELM, or the one of .ci/helm, which builds it if need be."""
    return (
        os.environ.get("HELM")
        or subprocess.run([ROOT / ".ci" / "helm"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    )


class Helm:
    """Helm, and the chart."""

    def __init__(self) -> None:
        self.path = find_helm()

    def run(self, *arguments: str | Path, values: Mapping[str, Any] | None = None) -> Done:
        """Run it, with `values` in a file; never raises on its exit code."""
        command: list[str | Path] = [self.path, *arguments]
        if values is not None:
            command += ["--values", "-"]
        return subprocess.run(command, input=json.dumps(values or {}), capture_output=True, text=True, timeout=120)

    def text(self, *files: Path, values: Mapping[str, Any] | None = None, kubernetes: str = "1.34") -> str:
        """What `helm template` prints, for a cluster of this version."""
        more: list[str | Path] = ["--kube-version", kubernetes]
        if tuple(map(int, kubernetes.split("."))) >= (1, 30):
            more += ["--api-versions", POLICY]
        for file in files:
            more += ["--values", file]
        done = self.run("template", "tproxy", CHART, "--namespace", "tproxy-system", *more, values=values)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def objects(self, *files: Path, values: Mapping[str, Any] | None = None, kubernetes: str = "1.34") -> list[Object]:
        """The same, parsed."""
        return parse(self.text(*files, values=values, kubernetes=kubernetes))

    def refusal(self, values: Mapping[str, Any], namespace: str = "tproxy-system") -> str:
        """What Helm says against these values; fails if it has nothing against them."""
        done = self.run("template", "tproxy", CHART, "--namespace", namespace, "--kube-version", "1.34", values=values)
        assert done.returncode != 0, f"accepted: {values}"
        return done.stderr


def parse(text: str) -> list[Object]:
    """All objects of a manifest."""
    return [document for document in yaml.safe_load_all(text) if document]


def of_kind(objects: Sequence[Object], kind: str) -> list[Object]:
    """Those of one kind."""
    return [each for each in objects if each["kind"] == kind]


def scenario_version(file: Path) -> str:
    """The Kubernetes that a scenario is for: `kubernetes-1.25-values.yaml` says so."""
    name = file.name.removesuffix("-values.yaml")
    return name.removeprefix("kubernetes-") if name.startswith("kubernetes-") else "1.34"
