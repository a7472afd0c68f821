"""Event loops and transports that a live tunnel has to work with."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import uvloop

from tests.unit.tunnel.live import Live, over_grpc, over_pipe

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine in a loop of its own."""
    runner: Run = request.param
    return runner


@pytest.fixture(params=[over_pipe, over_grpc], ids=["pipe", "grpc"])
def tunnel(request: pytest.FixtureRequest) -> Callable[[], AbstractAsyncContextManager[Live]]:
    """Makes a live tunnel."""
    maker: Callable[[], AbstractAsyncContextManager[Live]] = request.param
    return maker
