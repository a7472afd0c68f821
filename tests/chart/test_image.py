"""node-daemon/Dockerfile agrees with the code and the chart. Building it takes a minute: node-daemon/build-image."""

import re

from tests.chart.rendering import ROOT, Helm, of_kind
from tproxy.version import VERSION

DOCKERFILE = (ROOT / "node-daemon" / "Dockerfile").read_text()


def test_version() -> None:
    assert re.findall(r"^ARG VERSION=(.*)$", DOCKERFILE, re.MULTILINE) == [VERSION]


def test_what_is_copied_is_there_and_not_ignored() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {source for source, _ in re.findall(r"^COPY (?!--)(\S+) (\S+)$", DOCKERFILE, re.MULTILINE)}
    assert copied == allowed
    assert all((ROOT / source).exists() for source in copied)


def test_dependencies_are_locked() -> None:
    assert "--require-hashes" in DOCKERFILE
    assert all(
        line.startswith((" ", "#")) or "==" in line
        for line in (ROOT / "requirements/node.txt").read_text().splitlines()
    )


def test_the_chart_runs_it_as_it_is_made(helm: Helm) -> None:
    (daemon_set,) = of_kind(helm.objects(), "DaemonSet")
    container = daemon_set["spec"]["template"]["spec"]["containers"][0]
    assert "command" not in container
    assert 'ENTRYPOINT ["python3", "-m", "tproxy_node"]' in DOCKERFILE
    assert f"EXPOSE {container['ports'][0]['containerPort']}" in DOCKERFILE
    assert f"USER {container['securityContext']['runAsUser']}" in DOCKERFILE
