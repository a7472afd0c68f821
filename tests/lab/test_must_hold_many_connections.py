"""A thousand connections open at once, and all of them alive."""

import asyncio
import contextlib
import time

from tests.lab.asking import connection
from tests.lab.scene import Scene

COUNT = 1000


def test_a_thousand_connections_echo(scene: Scene) -> None:
    async def scenario() -> None:
        async with contextlib.AsyncExitStack() as stack:
            began = time.monotonic()
            streams = []
            for _ in range(COUNT // 50):
                opening = [stack.enter_async_context(connection(scene.outside, host)) for _ in range(50)]
                streams += await asyncio.gather(*opening)
            for turn in range(3):
                for number, (_, writer) in enumerate(streams):
                    writer.write(b"ECHO\n" * (turn == 0) + b"%d: still here in turn %d\n" % (number, turn))
                async with asyncio.timeout(20):
                    lines = await asyncio.gather(*(reader.readline() for reader, _ in streams))
                assert lines == [b"%d: still here in turn %d\n" % (number, turn) for number in range(COUNT)]
            [cluster] = scene.json("status")["clusters"]
            assert sum(node["connections"] for node in cluster["nodes"]) == COUNT
            print(f"{COUNT} connections echoed three times in {time.monotonic() - began:.1f} s")

    with scene.intercepted():
        host = scene.address()
        asyncio.run(scenario())
        node = scene.pods()[0]["node"]
        scene.lab.wait(lambda: scene.metric(node, 'tproxy_connections_active{place="laptop"}') == 0, "none left")
