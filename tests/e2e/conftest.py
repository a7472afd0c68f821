"""What all tests share, and the chart in it.

plane       a control plane without nodes, for tests of definitions and rights
release     the chart in it
cluster     a whole cluster of two nodes, with the chart, Edgy Corp's application and a laptop

With $KUBECONFIG none of these is made: then only what needs no cluster of its own is run (test_existing.py).
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.chart.rights import PLACES, VALUES, VIEWER
from tests.e2e.chart import Release
from tests.e2e.cluster import SERVICES, Cluster, edgy_corp
from tests.e2e.control_plane import ControlPlane, find_programs
from tests.e2e.person import Person
from tproxy.lab.ordinary import USER

EXISTING = "test_existing.py"
VISITING = bool(os.environ.get("KUBECONFIG"))
collect_ignore = [
    path.name for path in Path(__file__).parent.glob("test_*.py") if (path.name == EXISTING) is not VISITING
]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was run, and where."""
    if VISITING:
        terminalreporter.write_line(f"KUBECONFIG is set: only {EXISTING} was run, in the cluster that it names")


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
        done = plane.kubectl("wait", "--for=condition=Established", f"crd/{definition}", "--timeout=120s")
        assert done.returncode == 0, done.stderr
    return made


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")) as running:
        Release(running.plane).install_on(running)
        running.apply(edgy_corp(), "shop")
        for service in SERVICES:
            running.kubectl("rollout", "status", "-n", "shop", f"deployment/{service}", "--timeout=120s")
        yield running


@pytest.fixture(scope="session")
def dora(cluster: Cluster) -> Iterator[Person]:
    """A developer of the namespace `shop`, root on the laptop."""
    with Person(cluster, "dora") as one:
        yield one


@pytest.fixture(scope="session")
def eve(cluster: Cluster) -> Iterator[Person]:
    """Another, who shares the laptop and has no rights there."""
    with Person(cluster, "eve", uid=USER) as one:
        yield one
