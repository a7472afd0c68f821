"""Fixtures for tests against the real kernel. They need root, and leave nothing behind, whatever happens."""

import asyncio
import os
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from tests.kernel.backends import BACKENDS
from tests.kernel.namespaces import Namespaces, PodNetwork
from tests.kernel.node import Stage, stage
from tests.kernel.run_laptop import Laptop
from tests.kernel.scenes import Play
from tproxy.steer.port import Steering


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


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """The name of each backend in turn."""
    return str(request.param)


@pytest.fixture
def steering(backend: str) -> Iterator[Steering]:
    """A backend whose lease holds for a minute."""
    steering = BACKENDS[backend]()
    try:
        steering.renew(60)
        yield steering
    finally:
        steering.close()


@pytest.fixture
def chosen() -> str:
    """What node daemons are told to steer by; modules of tests may say otherwise."""
    return "auto"


@pytest.fixture
def play(namespaces: Namespaces, tmp_path: Path, chosen: str) -> Play:
    """Runs a scenario with a node daemon, its API server and whatever else the scenario asks for."""

    def run(scenario: Callable[[Stage], Awaitable[None]]) -> None:
        async def whole() -> None:
            async with asyncio.timeout(60), stage(namespaces, tmp_path, chosen) as made:
                await scenario(made)

        asyncio.run(whole())

    return run


@pytest.fixture
def laptop() -> Iterator[Laptop]:
    """An ordinary user's runs."""
    # Not pytest's: that one is closed to other users, and closed again by every pytest that starts.
    with tempfile.TemporaryDirectory(prefix="tproxy-t-") as directory:
        Path(directory).chmod(0o755)
        one = Laptop(Path(directory) / "home")
        try:
            yield one
        finally:
            one.close()
