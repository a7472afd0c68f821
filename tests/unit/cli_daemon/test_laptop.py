"""What the daemon asks of the laptop's own kernel: who listens, who is at the other end, what time it is."""

import asyncio
import os
import socket

import pytest
from tproxy_cli.daemon import clock
from tproxy_cli.daemon.laptop_ports import listens
from tproxy_cli.daemon.peer import peer_uid


@pytest.mark.parametrize(
    ("family", "host"),
    [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::1"), (socket.AF_INET6, "::")],
)
def test_a_listener_is_found_and_not_disturbed(family: int, host: str) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, 0))
        port = listener.getsockname()[1]
        assert not listens(port) or host in ("0.0.0.0", "::")  # bound is not yet listening
        listener.listen()
        listener.setblocking(False)
        assert listens(port)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert not listens(port)


def test_closed_connections_do_not_count() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        server, _ = listener.accept()
        server.close()  # closes first: its end stays in TIME_WAIT
        client.close()
    assert not listens(port)


def test_the_peer_of_a_unix_socket() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peer_uid(ours) == os.getuid()


def test_sleep_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "TICK_SECONDS", 0.001)
    offset = 0.0
    monkeypatch.setattr(clock.time, "clock_gettime", lambda _: clock.time.monotonic() + offset)
    slept: list[float] = []

    async def run() -> None:
        nonlocal offset
        woke = asyncio.Event()

        def on_wake(seconds: float) -> None:
            slept.append(seconds)
            woke.set()

        task = asyncio.get_running_loop().create_task(clock.watch_sleep(on_wake))
        await asyncio.sleep(0.01)
        assert slept == []
        offset = 3600.0
        async with asyncio.timeout(5):
            await woke.wait()
        task.cancel()

    asyncio.run(run())
    assert len(slept) == 1
    assert slept[0] == pytest.approx(3600, abs=5)
