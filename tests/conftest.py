"""Shared by all tests: a skip must be one that was expected."""

import os
from pathlib import Path

import hypothesis
import pytest

# How long an example takes says more about the machine than about the code.
hypothesis.settings.register_profile("tproxy", deadline=None)
hypothesis.settings.load_profile("tproxy")

EXPECTED_SKIPS = Path(__file__).with_name("expected-skips.txt")


def _expected() -> list[str]:
    lines = EXPECTED_SKIPS.read_text().splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a skip whose reason is not listed fails the run: a test that stopped running must be noticed."""
    if not os.environ.get("CI"):
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    expected = _expected()
    unexpected = []
    for report in reporter.stats.get("skipped", []) if reporter else []:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(part in reason for part in expected):
            unexpected.append(f"{report.nodeid}: {reason}")
    if unexpected:
        reporter.write_line("unexpected skips:\n  " + "\n  ".join(unexpected), red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
