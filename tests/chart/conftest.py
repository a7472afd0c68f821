"""One Helm for all tests of the chart."""

import pytest

from tests.chart.rendering import Helm


@pytest.fixture(scope="session")
def helm() -> Helm:
    """Helm, built if it is not there yet."""
    return Helm()
