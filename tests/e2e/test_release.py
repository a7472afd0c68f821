"""What `helm upgrade` changes, and what `helm uninstall` leaves: nothing."""

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.chart.rendering import CHART
from tests.e2e.chart import Release
from tests.e2e.control_plane import ControlPlane, find_programs
from tests.unit.model import objects
from tproxy.kube.api import ApiCluster
from tproxy.kube.config import load
from tproxy.kube.port import SESSIONS


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane of its own: this one loses the chart."""
    with ControlPlane(tmp_path_factory.mktemp("fresh"), find_programs()) as running:
        yield running


def everything(plane: ControlPlane) -> set[str]:
    """Every object in the cluster that does not come and go by itself, as KIND/NAMESPACE/NAME."""
    kinds = plane.kubectl("api-resources", "--verbs=list", "-o", "name").stdout.split()
    passing = {"events", "events.events.k8s.io", "leases.coordination.k8s.io", "componentstatuses"}
    listed = plane.kubectl("get", ",".join(sorted(set(kinds) - passing)), "-A", "-o", "json", "--ignore-not-found")
    assert listed.returncode == 0, listed.stderr
    found = set()
    for item in json.loads(listed.stdout)["items"]:
        metadata = item["metadata"]
        found.add(f"{item['kind']}/{metadata.get('namespace', '')}/{metadata['name']}")
    return found


def test_install_upgrade_uninstall(fresh: ControlPlane, tmp_path: Path) -> None:
    release = Release(fresh)
    fresh.kubectl("create", "namespace", "tproxy-system")
    fresh.wait(
        "an account", "get", "serviceaccount", "-n", "tproxy-system", "-o", "name", until="serviceaccount/default"
    )
    fresh.wait("roles", "auth", "can-i", "list", "pods", "--as=x", "--as-group=system:masters", until="yes")
    before = everything(fresh)
    release.helm("install", "tproxy", CHART)

    # Somebody works; the next version of the chart knows another field and another value.
    fresh.kubectl("wait", "--for=condition=Established", "crd/sessions.tproxy.dev", "--timeout=120s")
    asyncio.run(make_session(fresh))
    chart = tmp_path / "tproxy"
    shutil.copytree(CHART, chart)
    definition = chart / "files" / "crds" / "sessions.yaml"
    changed = yaml.safe_load(definition.read_text())
    spec = changed["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    spec["colour"] = {"type": "string"}
    definition.write_text(yaml.safe_dump(changed))
    release.helm("upgrade", "tproxy", chart, values={"log": {"level": "debug"}})
    path = "jsonpath={.spec.versions[0].schema.openAPIV3Schema.properties.spec.properties.colour.type}"
    assert fresh.kubectl("get", "crd", "sessions.tproxy.dev", "-o", path).stdout == "string"
    daemon = fresh.kubectl("get", "daemonset", "-n", "tproxy-system", "tproxy-node", "-o", "yaml").stdout
    assert "--log-level=debug" in daemon
    listed = fresh.kubectl("get", "sessions", "-n", "default", "-o", "name").stdout
    assert listed == "session.tproxy.dev/laptop-s1\n"
    assert len(everything(fresh) - before) > 15

    release.helm("uninstall", "tproxy", "--wait")
    assert everything(fresh) == before


async def make_session(plane: ControlPlane) -> None:
    cluster = ApiCluster(load(str(plane.kubeconfig), None))
    try:
        await cluster.create(SESSIONS, objects.session(user="admin", namespace="default").to_object(), "default")
    finally:
        await cluster.close()


def test_definitions_may_stay(fresh: ControlPlane) -> None:
    release = Release(fresh)
    release.helm("install", "tproxy", CHART, values={"crds": {"keep": True}})
    release.helm("uninstall", "tproxy", "--wait")
    assert fresh.kubectl("get", "crd", "sessions.tproxy.dev", "-o", "name").returncode == 0
    release.helm("install", "tproxy", CHART)
    release.helm("uninstall", "tproxy", "--wait")
    assert fresh.kubectl("get", "crd", "sessions.tproxy.dev").returncode == 1
