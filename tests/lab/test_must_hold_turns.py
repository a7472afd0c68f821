"""Intercepting and leaving again and again costs no request anything but the way it goes."""

import asyncio

from tests.lab.asking import Prober
from tests.lab.scene import Scene

TURNS = 10


def test_ten_turns_fail_no_request(scene: Scene) -> None:
    async def scenario(host: str) -> Prober:
        async with Prober(scene.outside, host, 0.005) as prober:
            for _ in range(TURNS):
                await asyncio.to_thread(scene.intercept)
                await prober.answered("laptop", 20)
                await asyncio.to_thread(scene.leave)
                await prober.answered("pod", 20)
        return prober

    with scene.intercepted():
        scene.leave()
        prober = asyncio.run(scenario(scene.address()))
    print(f"{TURNS} times there and back: {prober.count()}, slowest {max(one.seconds for one in prober.tries):.2f} s")
    assert set(prober.count()) == {"laptop", "pod"}
