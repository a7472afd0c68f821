"""The holder of the steering dies or hangs: the app serves, and nothing is left behind."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.kernel.answering import PORT, ask, serving
from tests.kernel.hammer import Hammer
from tests.kernel.namespaces import POD_IP4, POD_IP6, PodNetwork, until


@contextlib.contextmanager
def holder(backend: str, path: str, *cgroup: str) -> Iterator[subprocess.Popen[str]]:
    """A process that steers `PORT` of the namespace."""
    command = [sys.executable, "-m", "tests.kernel.holder", backend, path, str(PORT), *cgroup]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("host", [POD_IP4, POD_IP6])
def test_killed_under_load(network: PodNetwork, backend: str, host: str) -> None:
    async def scenario() -> None:
        def as_before() -> bool:
            return network.pod.state() == before

        def late() -> list[str]:
            """What became of connections begun 100 ms after the kill or later."""
            return [result.who for result in hammer.results if result.began > killed + 0.1]

        with contextlib.closing(network.pod.listen("::", PORT)) as app:
            async with serving("app", [app]), Hammer(network.outside, host, workers=16) as hammer:
                await hammer.more("app", 50)
                before = network.pod.state()
                with holder(backend, network.pod.path) as process:
                    assert network.pod.state() != before
                    await hammer.more("tproxy", 200)
                    os.kill(process.pid, signal.SIGKILL)
                    killed = time.monotonic()
                    await until(lambda: len(late()) > 200)
                    assert process.wait(5) == -signal.SIGKILL
                await until(as_before)
        assert set(late()) == {"app"}
        # Only what was in flight failed: at most one connection of each worker.
        assert hammer.count("error") <= 16
        assert hammer.count("refused") == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("host", [POD_IP4, POD_IP6])
def test_hung(network: PodNetwork, backend: str, host: str) -> None:
    async def scenario() -> None:
        async def answered_by(who: str, seconds: float) -> None:
            async with asyncio.timeout(seconds):
                while True:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.2):
                            found = await ask(network.outside, host)
                            if found and found.who == who:
                                return

        with contextlib.closing(network.pod.listen("::", PORT)) as app:
            async with serving("app", [app]):
                with holder(backend, network.pod.path) as process:
                    await answered_by("tproxy", 1)
                    os.kill(process.pid, signal.SIGSTOP)
                    # ipset counts a lease in whole seconds: 2 instead of 1.5.
                    await answered_by("app", 2 if backend == "sk_lookup" else 2.5)
                    os.kill(process.pid, signal.SIGCONT)
                    await answered_by("tproxy", 2)

    asyncio.run(scenario())
