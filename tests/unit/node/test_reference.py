"""docs/reference/node-daemon.md says what the code does."""

import re
from pathlib import Path

import pytest
from tproxy_node import desired, metrics, options, reconcile

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "reference" / "node-daemon.md").read_text()


def cells(heading: str, column: int) -> set[str]:
    """Words of one column of the table below a heading."""
    table = PAGE.partition(heading)[2].partition("\n\n|")[2].partition("\n\n")[0]
    rows = [row.split("|") for row in table.splitlines()[2:]]
    return {word.strip("` ") for row in rows for word in row[column].split(",")} - {""}


def test_flags(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options.parse(["--help"], {})
    flags = set(re.findall(r"^  (--[a-z-]+)", capsys.readouterr().out, re.MULTILINE))
    assert cells("# Node daemon", 1) == flags - {"--help", "--version"}


def test_reasons() -> None:
    sources = [Path(module.__file__).read_text() for module in (desired, reconcile) if module.__file__]
    root = Path(__file__).resolve().parents[3] / "tproxy" / "netns"
    sources += [(root / name).read_text() for name in ("discovery.py", "refusal.py")]
    reasons = {
        match
        for source in sources
        for match in re.findall(r'"([A-Z][a-z]+(?:[A-Z][a-z]+)+)"', source) + re.findall(r'"(Attaching)"', source)
    }
    assert cells("## What it writes", 2) == reasons


def test_metrics() -> None:
    source = Path(str(metrics.__file__)).read_text()
    gauges = set(re.findall(r'_gauge\(\s*"(tproxy_[a-z_]+)"', source))
    counters = {f"{name}_total" for name in re.findall(r'_counter\(\s*"(tproxy_[a-z_]+)"', source)}
    histograms = set(re.findall(r'HistogramMetricFamily\(\s*"(tproxy_[a-z_]+)"', source))
    assert cells("## Metrics", 1) == gauges | counters | histograms
