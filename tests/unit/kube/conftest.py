"""Both event loops."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
import uvloop

from tests.unit.kube.forwards import Run


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a coroutine in either event loop: they differ in how transports pause and buffer."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def runner(main: Coroutine[Any, Any, None]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(20):
                await main

        with asyncio.Runner(loop_factory=factory) as loop:
            loop.run(bounded())

    return runner
