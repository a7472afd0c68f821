"""A process that steers, to be killed by tests: `python -m tests.kernel.holder NETNS_PATH PORT`.

It renews a lease of 1.5 s from its loop, answers as `tproxy`, and prints `ready` once it steers.
"""

import asyncio
import sys

from tests.kernel.answering import serving
from tproxy.netns.handle import Netns
from tproxy.steer.port import SteeredPort
from tproxy.steer.sk_lookup import SkLookup

LEASE = 1.5  # seconds


async def hold(path: str, port: int) -> None:
    steering = SkLookup()
    attachment = steering.attach(Netns.open(path), [SteeredPort(port)])
    async with serving("tproxy", attachment.listeners):
        steering.renew(LEASE)
        print("ready", flush=True)
        while True:
            steering.renew(LEASE)
            await asyncio.sleep(0.3)


if __name__ == "__main__":
    asyncio.run(hold(sys.argv[1], int(sys.argv[2])))
