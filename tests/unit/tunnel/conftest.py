"""Event loops and transports that a live tunnel has to work with."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import uvloop

from tests.unit.tunnel.live import Live, over_grpc, over_library, over_pipe
from tproxy.rpc import client, library

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine in a loop of its own."""
    runner: Run = request.param
    return runner


@pytest.fixture(params=[over_pipe, over_grpc, over_library], ids=["pipe", "grpc", "library"])
def tunnel(request: pytest.FixtureRequest) -> Callable[[], AbstractAsyncContextManager[Live]]:
    """Makes a live tunnel."""
    maker: Callable[[], AbstractAsyncContextManager[Live]] = request.param
    return maker


@pytest.fixture(params=[client.open_stream, library.open_stream], ids=["ours", "library"])
def opening(request: pytest.FixtureRequest) -> client.Opening:
    """What carries the laptop's end."""
    made: client.Opening = request.param
    return made
