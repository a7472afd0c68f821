"""An app in a pod, to be started by tests: `python -m tests.kernel.seeing NETNS_PATH CGROUP PORT HOST...`.

It says `ready` once it listens, and greets every connection as `app` with what it sees of it.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from tests.kernel.answering import PORT, serving
from tests.kernel.namespaces import Namespace
from tproxy.netns.handle import Netns


async def see(path: str, port: int, *hosts: str) -> None:
    place = Namespace("", Netns.open(path))
    async with serving("app", [place.listen(host, port) for host in hosts]):
        print("ready", flush=True)
        await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def app_in(place: Namespace, cgroup: Path, hosts: Iterable[str], port: int = PORT) -> AsyncIterator[None]:
    """The app as a process of its own in a namespace and a cgroup."""
    command = [sys.executable, "-m", "tests.kernel.seeing", place.path, str(cgroup), str(port), *hosts]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        yield
    finally:
        process.kill()
        await process.wait()


if __name__ == "__main__":
    # Before any socket is made: a socket belongs to the cgroup of who made it.
    Path(sys.argv[2], "cgroup.procs").write_text(str(os.getpid()))
    asyncio.run(see(sys.argv[1], int(sys.argv[3]), *sys.argv[4:]))
