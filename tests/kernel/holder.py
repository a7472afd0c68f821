"""A process that steers, to be killed by tests: `python -m tests.kernel.holder BACKEND NETNS_PATH PORT [CGROUP]`.

It renews a lease of 1.5 s from its loop, answers as `tproxy`, and prints `ready` once it steers.
"""

import asyncio
import sys
from pathlib import Path

from tests.kernel.answering import serving
from tests.kernel.backends import BACKENDS
from tproxy.netns.handle import Netns
from tproxy.steer.port import SteeredPort

LEASE = 1.5  # seconds


async def hold(backend: str, path: str, port: int, cgroup: str = "") -> None:
    steering = BACKENDS[backend]()
    attachment = steering.attach(Netns.open(path), [SteeredPort(port)], Path(cgroup) if cgroup else None)
    async with serving("tproxy", attachment.listeners):
        steering.renew(LEASE)
        print("ready", flush=True)
        while True:
            steering.renew(LEASE)
            await asyncio.sleep(0.3)


if __name__ == "__main__":
    asyncio.run(hold(sys.argv[1], sys.argv[2], int(sys.argv[3]), *sys.argv[4:]))
