"""`KUBECONFIG=… make e2e`: tests against a cluster that is there already do their work in it, and leave nothing."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster
from tests.e2e.control_plane import ROOT, find_programs
from tests.e2e.test_release import everything


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of its own, without the chart."""
    with Cluster(tmp_path_factory.mktemp("bare")) as running:
        yield running


def visit(cluster: Cluster, image: str) -> "subprocess.CompletedProcess[str]":
    """What pytest says at the laptop of a cluster whose administrator is there."""
    environment = {
        **os.environ,
        "KUBECONFIG": str(cluster.plane.kubeconfig),
        "KUBEBUILDER_ASSETS": str(find_programs()),
        "NODE_IMAGE_NAME": image,
        "PYTEST_ADDOPTS": "",
    }
    pytest_there = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", ROOT / "tests" / "e2e"]
    command = cluster.laptop.enter("env", f"--chdir={ROOT}", *map(str, pytest_there))
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)


def test_visit(bare: Cluster) -> None:
    before = everything(bare.plane)
    done = visit(bare, bare.image)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "KUBECONFIG is set" in done.stdout
    assert "3 passed" in done.stdout
    assert everything(bare.plane) == before


def test_what_is_there_is_not_touched(bare: Cluster) -> None:
    bare.kubectl("create", "namespace", "tproxy-system")
    try:
        before = everything(bare.plane)
        done = visit(bare, bare.image)
        assert done.returncode != 0
        assert "there is a namespace tproxy-system in this cluster already" in done.stdout
        assert everything(bare.plane) == before
    finally:
        bare.kubectl("delete", "namespace", "tproxy-system")


def test_the_image_must_be_named(bare: Cluster, tmp_path: Path) -> None:
    done = visit(bare, "")
    assert done.returncode != 0
    assert "NODE_IMAGE_NAME says which image" in done.stdout
