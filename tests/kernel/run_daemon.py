"""A daemon's half of runs, in a process of its own: `python -m tests.kernel.run_daemon`.

The cluster is a stand-in: one that owns no address, and whose resolvers know a few names.
"""

import asyncio
import itertools
import os
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any

import uvloop
from tproxy_cli import paths
from tproxy_cli.daemon.given.running import Files
from tproxy_cli.daemon.runs.door import Door
from tproxy_cli.daemon.runs.runs import Runs
from tproxy_cli.daemon.runs.ways import Lease

from tproxy.dns import wire
from tproxy.env.archive import File, pack
from tproxy.model.resolv_conf import ResolvConf

MOUNTS = ("/at-the-top", "/at-the-top-too/deep", "/etc/below/deep", "/etc/below/two", "/run/one", "/var/run/two")
ONE_FILE = "/etc/one-file"
KNOWN = {"web.shop.svc.cluster.local": "10.96.0.7"}


class Cluster:
    """What `Outbound` says, as far as runs that dial nothing there need it."""

    origin, node, trouble = "shop/web-1", "node1", ""
    resolv_conf = ResolvConf(("10.96.0.10",), ("shop.svc.cluster.local", "svc.cluster.local", "cluster.local"), 5)

    def owns(self, address: str) -> bool:
        return False

    async def query(self, message: bytes) -> bytes:
        question = wire.question(message)
        address = KNOWN.get(question.name)
        answer = wire.answer_without_records(message, wire.NXDOMAIN if address is None else wire.NOERROR)
        if address is None or question.kind != wire.A:
            return answer
        packed = bytes(int(part) for part in address.split("."))
        record = b"\xc0\x0c\0\x01\0\x01\0\0\0\x05\0\x04" + packed
        count = 1 if len(message) < 100 else 100
        return answer[:6] + count.to_bytes(2, "big") + answer[8:] + record * count

    async def close(self) -> None:
        pass


class Ways:
    """Always that cluster."""

    async def open(self, *_: object) -> Lease:
        return Lease(Cluster(), lambda: None)  # type: ignore[arg-type]

    async def close(self) -> None:
        pass


class Given:
    """What the container of that cluster was given."""

    async def environment(self) -> dict[str, str]:
        return {"GREETING": "hello", "HOME": "/nonsense"}

    async def files(self) -> AsyncIterator[Files]:
        below = tuple(f"{path}/colour" for path in MOUNTS)
        for colour in itertools.cycle((b"green", b"red")):
            yield Files(pack(File(path, colour, executable=True) for path in (*below, ONE_FILE)), (*MOUNTS, ONE_FILE))
            await asyncio.sleep(0.2)

    async def close(self) -> None:
        pass


async def serve() -> None:
    async def ended(run: str) -> None:
        pass

    async def give(*_: object) -> Any:
        return Given()

    runs = Runs(Ways(), give, ended)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(paths.run_socket_path()))
    listener.listen()
    door = Door(listener, runs.serve)
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await door.close()
    print("idle" if runs.idle else "busy", flush=True)


if __name__ == "__main__":
    os.umask(0o077)
    uvloop.run(serve())
