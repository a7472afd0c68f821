"""Connecting without a thread: refused is refused, and a connect that has begun is waited for."""

import asyncio
import errno
import socket
from collections.abc import Callable, Iterator

import pytest
import uvloop

from tproxy.connecting import connect


@pytest.fixture(params=[(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    family, host = request.param
    with socket.create_server((host, 0), family=family, backlog=1) as one:
        yield one


def run(scenario: Callable[[socket.socket], object], family: int) -> None:
    async def whole() -> None:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.setblocking(False)
            async with asyncio.timeout(10):
                await scenario(sock)  # type: ignore[misc]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(whole())


def test_connected(listener: socket.socket) -> None:
    async def scenario(sock: socket.socket) -> None:
        await connect(sock, listener.getsockname()[:2])
        assert sock.getpeername() == listener.getsockname()

    run(scenario, listener.family)


def test_one_that_has_begun(listener: socket.socket) -> None:
    async def scenario(sock: socket.socket) -> None:
        address = listener.getsockname()[:2]
        assert sock.connect_ex(address) in (0, errno.EINPROGRESS)
        await connect(sock, address)
        assert sock.getpeername() == listener.getsockname()

    run(scenario, listener.family)


def test_refused(listener: socket.socket) -> None:
    address = listener.getsockname()[:2]
    listener.close()

    async def scenario(sock: socket.socket) -> None:
        with pytest.raises(ConnectionRefusedError):
            await connect(sock, address)

    run(scenario, listener.family)


def test_whoever_gives_up_leaves_nothing_behind(listener: socket.socket) -> None:
    """With the backlog full a connect takes as long as it likes."""
    address = listener.getsockname()[:2]

    async def scenario(sock: socket.socket) -> None:
        others = [socket.socket(listener.family, socket.SOCK_STREAM) for _ in range(4)]
        try:
            for other in others:
                other.setblocking(False)
                other.connect_ex(address)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await connect(sock, address)
            assert not asyncio.get_running_loop().remove_writer(sock)
        finally:
            for other in others:
                other.close()

    run(scenario, listener.family)
