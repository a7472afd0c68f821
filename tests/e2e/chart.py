"""The chart in a cluster."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.chart.rendering import CHART, find_helm
from tests.e2e.cluster import Cluster
from tests.e2e.control_plane import DEVELOPERS, ControlPlane

GROUP = "example.com"
"""Of somebody's own kind `Fleet`, which owns ReplicaSets."""
DIRECT_PORT = 4772
"""Of every node: `--transport direct` leads there."""


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
            self._plane.inside(*command),
            input=yaml.safe_dump(dict(values or {})),
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def install(self, values: Mapping[str, Any]) -> str:
        """`helm install`, and what it prints."""
        return self.helm("install", "tproxy", CHART, "--create-namespace", values=values)

    def upgrade(self, values: Mapping[str, Any]) -> str:
        """`helm upgrade` with these values beside those that it has, and what it prints."""
        return self.helm("upgrade", "tproxy", CHART, "--reuse-values", values=values)

    def install_on(self, cluster: Cluster) -> None:
        """Make the namespace `shop`, let developers intercept there, and wait for the node daemons."""
        cluster.kubectl("create", "namespace", "shop")
        registry, _, name = cluster.image.partition("/")
        repository, _, tag = name.partition(":")
        developers = [{"kind": "User", "name": developer} for developer in DEVELOPERS]
        values = {
            "image": {"registry": registry, "repository": repository, "tag": tag, "pullPolicy": "Never"},
            "rbac": {
                "developers": {"shop": {"namespaces": ["shop"], "subjects": developers}},
                "owners": {GROUP: ["fleets"]},
            },
            "direct": {"enabled": True, "hostPort": DIRECT_PORT},
        }
        self.install(values)
        cluster.kubectl("rollout", "status", "-n", "tproxy-system", "daemonset/tproxy-node", "--timeout=120s")
