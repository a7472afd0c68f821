"""A process that steers, to be killed by tests: `python -m tests.kernel.holder BACKEND NETNS_PATH PORT [CGROUP]`.

It steers TCP and UDP, renews a lease of 1.5 s from its loop, answers as `tproxy`, and prints `ready` once it steers.
"""

import asyncio
import socket
import sys
from pathlib import Path

from tests.kernel.answering import serving
from tests.kernel.backends import BACKENDS
from tproxy.netns.handle import Netns
from tproxy.steer.datagrams import receive
from tproxy.steer.port import SteeredPort

LEASE = 1.5  # seconds


async def hold(backend: str, path: str, port: int, cgroup: str = "") -> None:
    steering = BACKENDS[backend]()
    attachment = steering.attach(Netns.open(path), [SteeredPort(port)], Path(cgroup) if cgroup else None)
    datagrams = attachment.datagrams()
    answers = datagrams.answers()

    def answer(receiver: socket.socket) -> None:
        question = receive(receiver)
        if question is not None:
            answers.send(b"tproxy", question)

    for receiver in datagrams.receivers:
        asyncio.get_running_loop().add_reader(receiver, answer, receiver)
    datagrams.set_ports([SteeredPort(port, "UDP")])
    async with serving("tproxy", attachment.listeners):
        steering.renew(LEASE)
        print("ready", flush=True)
        while True:
            steering.renew(LEASE)
            await asyncio.sleep(0.3)


if __name__ == "__main__":
    asyncio.run(hold(sys.argv[1], sys.argv[2], int(sys.argv[3]), *sys.argv[4:]))
