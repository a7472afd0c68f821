"""What the chart renders, by scenario. After a change that is meant: `GOLDEN=write make chart`, and read the diff."""

import os
from pathlib import Path

import pytest

from tests.chart.rendering import CHART, SCENARIOS, Helm, scenario_version

GOLDEN = Path(__file__).parent / "golden"


def named(file: Path) -> str:
    return file.name.removesuffix("-values.yaml")


@pytest.mark.parametrize("scenario", SCENARIOS, ids=named)
def test_renders_what_it_did(helm: Helm, scenario: Path) -> None:
    rendered = helm.text(scenario, kubernetes=scenario_version(scenario))
    golden = GOLDEN / f"{named(scenario)}.yaml"
    if os.environ.get("GOLDEN") == "write":
        golden.write_text(rendered)
    assert rendered == golden.read_text()


def test_no_golden_file_is_left_over() -> None:
    assert {file.stem for file in GOLDEN.iterdir()} == {named(file) for file in SCENARIOS}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=named)
def test_lint(helm: Helm, scenario: Path) -> None:
    version = scenario_version(scenario)
    done = helm.run(
        "lint", "--strict", CHART, "--namespace", "tproxy-system", "--values", scenario, "--kube-version", version
    )
    assert done.returncode == 0, done.stdout
    assert "WARNING" not in done.stdout
