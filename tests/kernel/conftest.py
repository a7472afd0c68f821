"""Fixtures for tests against the real kernel. They need root, and leave nothing behind, whatever happens."""

import os
from collections.abc import Iterator

import pytest

from tests.kernel.namespaces import Namespaces, PodNetwork
from tproxy.steer.sk_lookup import SkLookup


@pytest.fixture(autouse=True)
def _root() -> None:
    if os.geteuid() != 0:
        pytest.fail("these tests need root: run `sudo make kernel`")


@pytest.fixture
def namespaces() -> Iterator[Namespaces]:
    """Makes namespaces named `tproxy-t-...`."""
    made = Namespaces()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def network(namespaces: Namespaces) -> PodNetwork:
    """A pod-like namespace and its outside."""
    return namespaces.make_pod()


@pytest.fixture
def steering() -> Iterator[SkLookup]:
    """A backend whose lease holds for a minute."""
    steering = SkLookup()
    try:
        steering.renew(60)
        yield steering
    finally:
        steering.close()
