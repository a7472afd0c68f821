"""One look through all of our sockets serves everybody who asked before it began."""

import asyncio
import threading

import pytest
from tproxy_node import own_sockets as module
from tproxy_node.own_sockets import OwnSockets


def test_looks_are_shared_and_none_is_older_than_its_question(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()
    looks: list[int] = []

    def look() -> set[int]:
        looks.append(1)
        number = len(looks)
        begun.set()
        assert go_on.wait(10)
        return {number}

    monkeypatch.setattr(module, "own_sockets", look)

    async def scenario() -> None:
        own = OwnSockets()
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            first = group.create_task(own.look())
            assert await asyncio.to_thread(begun.wait, 10)
            others = [group.create_task(own.look()) for _ in range(50)]
            await asyncio.sleep(0)
            go_on.set()
        assert first.result() == {1}
        assert [other.result() for other in others] == [{2}] * 50
        assert await own.look() == {3}

    asyncio.run(scenario())


def test_who_goes_away_does_not_end_it_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    monkeypatch.setattr(module, "own_sockets", lambda: {1} if go_on.wait(10) else set())

    async def scenario() -> None:
        own = OwnSockets()
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            one, other = group.create_task(own.look()), group.create_task(own.look())
            await asyncio.sleep(0)
            one.cancel()
            go_on.set()
            assert await other == {1}

    asyncio.run(scenario())
