"""One control plane for all tests, and the chart in it."""

import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.rendering import CHART, find_helm
from tests.chart.rights import PLACES, VALUES, VIEWER
from tests.e2e.control_plane import ControlPlane, find_programs


class Release:
    """The chart, installed by Helm as an administrator would."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._helm = find_helm()

    def helm(self, *arguments: str | Path, values: Mapping[str, Any] | None = None) -> str:
        """Run Helm in the release's namespace; what it prints. Raises AssertionError with what it has against it."""
        command = [self._helm, f"--kubeconfig={self._plane.kubeconfig}", "--namespace=tproxy-system", *arguments]
        if values is not None:
            command += ["--values", "-"]
        done = subprocess.run(
            command, input=yaml.safe_dump(dict(values or {})), capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def install(self, values: Mapping[str, Any]) -> str:
        """`helm install`, and what it prints."""
        return self.helm("install", "tproxy", CHART, "--create-namespace", values=values)


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("plane"), find_programs()) as running:
        for namespace in set(PLACES) - {"default", "tproxy-system"}:
            assert running.kubectl("create", "namespace", namespace).returncode == 0
        yield running


@pytest.fixture(scope="session")
def release(plane: ControlPlane) -> Release:
    """Installed with a developer, an admin and a debugger, and a viewer bound beside it."""
    made = Release(plane)
    made.install(VALUES)
    plane.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(VIEWER))
    for definition in ("sessions.tproxy.dev", "intercepts.tproxy.dev"):
        done = plane.kubectl("wait", "--for=condition=Established", f"crd/{definition}", "--timeout=60s")
        assert done.returncode == 0, done.stderr
    return made
