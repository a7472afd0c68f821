"""A reader that stops delays nobody else and costs its own window, on either end."""

import asyncio
import contextlib
import os
import statistics
import time

import pytest

from tests.kernel.scenes import rss
from tests.lab.asking import Prober, connection
from tests.lab.scene import Scene

STALL_SECONDS = float(os.environ.get("TPROXY_TEST_STALL_SECONDS", "6"))
STALLED = 8
MAX_GROWTH = 32 << 20


def processes(scene: Scene) -> dict[str, int]:
    """Resident memory, bytes, of everything between client and local app."""
    pod, facts = scene.pods()[0], scene.lab.status()
    pids = {"node": scene.daemon(pod["node"]), "laptop": scene.pid(), "lab server": facts["apiServer"]["pid"]}
    return {name: rss(pid) for name, pid in pids.items()}


def median(prober: Prober) -> float:
    return statistics.median(one.seconds for one in prober.tries)


@pytest.mark.parametrize("side", ["client", "local app"])
def test_a_stopped_reader_delays_nobody(scene: Scene, side: str) -> None:
    async def stall(stack: contextlib.AsyncExitStack, host: str) -> list[asyncio.StreamWriter]:
        """Connections with more to carry than anyone reads: nobody takes what is left of them."""
        writers = []
        for _ in range(STALLED):
            _, writer = await stack.enter_async_context(connection(scene.outside, host))
            if side == "client":
                writer.transport.pause_reading()  # type: ignore[attr-defined]
                writer.write(b"BYTES %d\n" % (1 << 30))
            else:
                writer.write(b"DEAF\n" + bytes(128 << 20))
            writers.append(writer)
        return writers

    async def scenario(host: str) -> None:
        async with Prober(scene.outside, host, 0.01) as before:
            await before.answered("laptop", 200)
        memory = processes(scene)
        async with contextlib.AsyncExitStack() as stack:
            writers = await stall(stack, host)
            async with Prober(scene.outside, host, 0.01) as during:
                stalled = time.monotonic()
                await asyncio.sleep(STALL_SECONDS)
                await during.answered("laptop", 1)
            if side == "local app":
                assert min(writer.transport.get_write_buffer_size() for writer in writers) > 32 << 20, "stalled"
            assert not any(writer.transport.is_closing() for writer in writers)
            after = processes(scene)
        growth = {name: after[name] - memory[name] for name in memory}
        slowest = max(one.seconds for one in during.tries)
        print(
            f"{STALLED} readers ({side}) stalled for {time.monotonic() - stalled:.0f} s: p50 {median(before) * 1e3:.1f}"
            f" -> {median(during) * 1e3:.1f} ms, slowest {slowest * 1e3:.0f} ms of {len(during.tries)};"
            f" RSS grew by { {name: f'{size / (1 << 20):.1f} MiB' for name, size in growth.items()} }"
        )
        assert set(during.count()) == {"laptop"}
        assert median(during) < 2 * median(before) + 0.02
        assert slowest < 1
        assert all(size < MAX_GROWTH for size in growth.values()), growth

    with scene.intercepted():
        asyncio.run(scenario(scene.address()))
