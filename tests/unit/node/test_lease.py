"""The lease is renewed from the loop that serves, and from nowhere else."""

import asyncio
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from tproxy_node import lease as module
from tproxy_node.lease import AHEAD_SECONDS, Lease

from tproxy.netns.handle import Netns
from tproxy.steer.port import Attachment, SteeredPort


class Renewals:
    """A steering backend that only notes when its lease was renewed, and for how long."""

    name = "notes"

    def __init__(self) -> None:
        self.times: list[tuple[float, float]] = []
        self.enough = asyncio.Event()

    def attach(self, netns: Netns, ports: Iterable[SteeredPort], cgroup: Path | None = None) -> Attachment:
        raise NotImplementedError

    def renew(self, seconds: float) -> None:
        self.times.append((time.monotonic(), seconds))
        if len(self.times) >= 5:
            self.enough.set()

    def close(self) -> None: ...


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PERIOD_SECONDS", 0.02)


def test_it_holds_from_the_beginning_and_is_renewed_in_time() -> None:
    async def scenario() -> None:
        steering = Renewals()
        lease = Lease(steering)
        assert len(steering.times) == 1, "before anything can be attached"
        await asyncio.wait_for(steering.enough.wait(), 2)
        lease.close()
        assert {seconds for _, seconds in steering.times} == {AHEAD_SECONDS}
        count = len(steering.times)
        await asyncio.sleep(0.06)  # three periods, in which nothing may happen
        assert len(steering.times) == count

    asyncio.run(scenario())


def test_a_blocked_loop_renews_nothing_and_it_shows() -> None:
    async def scenario() -> None:
        steering = Renewals()
        lease = Lease(steering)
        await asyncio.sleep(0)
        before = len(steering.times)
        time.sleep(0.3)  # noqa: ASYNC251 - hanging is what is tested
        assert len(steering.times) == before
        await asyncio.wait_for(steering.enough.wait(), 2)
        assert lease.worst_delay >= 0.25
        lease.close()

    asyncio.run(scenario())
