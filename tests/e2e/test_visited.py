"""`KUBECONFIG=… make e2e`: tests against a cluster that is there already do their work in it, and leave nothing."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster
from tests.e2e.control_plane import ROOT
from tests.e2e.existing import RefusedError, image_values
from tests.e2e.person import wait
from tests.e2e.test_release import everything

_STUBBORN_KUBECTL = """#!/bin/sh
case "$*" in
    "delete namespace tproxy-e2e-"*) echo "not today" >&2; exit 1 ;;
esac
exec "$REAL" "$@"
"""


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of its own, without the chart."""
    with Cluster(tmp_path_factory.mktemp("bare")) as running:
        yield running


# Whoever started this one in the background has made it, and what it starts, deaf to Ctrl-C.
PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/e2e")
COMMAND = ("env", "--default-signal=INT", f"--chdir={ROOT}", sys.executable, *PYTEST)


def variables(cluster: Cluster, image: str) -> dict[str, str]:
    """Those of an administrator at the laptop, whose kubectl is the system's own."""
    given = {"KUBECONFIG": str(cluster.plane.kubeconfig), "NODE_IMAGE_NAME": image, "PYTEST_ADDOPTS": ""}
    return {**{name: value for name, value in os.environ.items() if name != "KUBEBUILDER_ASSETS"}, **given}


def visit(cluster: Cluster, image: str) -> "subprocess.CompletedProcess[str]":
    """What pytest says there."""
    return cluster.laptop.run(*COMMAND, check=False, seconds=400, env=variables(cluster, image))


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


def test_what_can_be_removed_is_removed(bare: Cluster, tmp_path: Path) -> None:
    """Also after Ctrl-C, and although something else cannot be, which is told."""
    real = shutil.which("kubectl")
    assert real is not None
    stubborn = tmp_path / "kubectl"
    stubborn.write_text(_STUBBORN_KUBECTL)
    stubborn.chmod(0o755)
    environment = variables(bare, bare.image) | {"REAL": real, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    before = everything(bare.plane)
    log = tmp_path / "visit.log"
    visitor = bare.laptop.start(*COMMAND, log=log, environment=environment)
    try:
        wait(lambda: any(one.startswith("Namespace//tproxy-e2e-") for one in everything(bare.plane)), "its namespace")
        visitor.signal(signal.SIGINT)
        assert visitor.wait(120) != 0
        left = everything(bare.plane) - before
        [namespace] = [one.removeprefix("Namespace//") for one in left if one.startswith("Namespace//")]
        # An IPAddress is of a Service, and in no namespace.
        assert {one for one in left if f"/{namespace}" not in one and not one.startswith("IPAddress/")} == set()
        assert f"kubectl delete namespace {namespace}" in log.read_text()
        assert "not today" in log.read_text()
        bare.kubectl("delete", "namespace", namespace)
        wait(lambda: everything(bare.plane) == before, "nothing of it")
    finally:
        visitor.kill()


def test_the_image_must_be_named(bare: Cluster) -> None:
    done = visit(bare, "")
    assert done.returncode != 0
    assert "NODE_IMAGE_NAME says which image" in done.stdout


DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("image", "registry", "repository", "tag", "digest"),
    [
        ("localhost/tproxy-node:0.1.0", "localhost", "tproxy-node", "0.1.0", ""),
        ("registry.example:5000/a/tproxy-node:1", "registry.example:5000", "a/tproxy-node", "1", ""),
        ("tproxy-node:1", "", "tproxy-node", "1", ""),
        (f"registry.example/a/b@{DIGEST}", "registry.example", "a/b", "", DIGEST),
        (f"registry.example/a/b:1@{DIGEST}", "registry.example", "a/b", "1", DIGEST),
    ],
)
def test_an_image_by_its_name(image: str, registry: str, repository: str, tag: str, digest: str) -> None:
    assert image_values(image) == {"registry": registry, "repository": repository, "tag": tag, "digest": digest}


@pytest.mark.parametrize("image", ["tproxy-node", "registry.example:5000/tproxy-node", "a/b:", "a/b@sha256:1"])
def test_an_image_that_may_be_any(image: str) -> None:
    with pytest.raises(RefusedError, match="NODE_IMAGE_NAME"):
        image_values(image)
