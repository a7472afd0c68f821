"""Scenes that tests of the node daemon play: apps, laptops, and a client's questions."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from tests.kernel.answering import PORT, ask, serving
from tests.kernel.namespaces import POD_IP4, Namespace
from tests.kernel.node import Laptop, Pod, Stage
from tproxy.tasks import Tasks

Play = Callable[[Callable[[Stage], Awaitable[None]]], None]
"""Runs a scenario on a stage with a ready daemon."""

READY = {"web-1": "Ready"}


@contextlib.asynccontextmanager
async def app(pod: Pod, port: int = PORT) -> AsyncIterator[None]:
    """The app in a pod, on every address."""
    listeners = [pod.network.pod.listen("0.0.0.0", port), pod.network.pod.listen("::", port, only_ip6=True)]
    try:
        async with serving("app", listeners):
            yield
    finally:
        for listener in listeners:
            listener.close()


@contextlib.asynccontextmanager
async def local_app(laptop: Laptop, who: str = "laptop") -> AsyncIterator[None]:
    """The app on the laptop, at the address the laptop forwards to."""
    listener = socket.create_server(laptop.app)
    listener.setblocking(False)
    try:
        async with serving(who, [listener]):
            yield
    finally:
        listener.close()


async def who(pod: Pod, host: str = POD_IP4, port: int = PORT) -> str:
    found = await ask(pod.network.outside, host, port)
    return found.who if found else "refused"


@contextlib.asynccontextmanager
async def intercepted(stage: Stage) -> AsyncIterator[tuple[Pod, Laptop]]:
    """A pod whose app is intercepted by a laptop, both serving."""
    pod, laptop = await stage.pod("web-1"), Laptop(stage, "alice")
    async with app(pod), local_app(laptop):
        await laptop.connect()
        laptop.intercept()
        await stage.reaches(READY)
        yield pod, laptop


async def open_connection(place: Namespace, port: int = PORT) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the pod, past the greeting."""
    reader, writer = await asyncio.open_connection(sock=await place.connect(POD_IP4, port))
    await reader.readline()
    return reader, writer


async def answered_by(pod: Pod, expected: str) -> None:
    """Ask anew, without patience for connections that hang, until `expected` answers."""
    async with asyncio.timeout(5):
        while True:
            with contextlib.suppress(TimeoutError, ConnectionError):
                async with asyncio.timeout(0.2):
                    if await who(pod) == expected:
                        return


@contextlib.asynccontextmanager
async def freezer(port: int) -> AsyncIterator[tuple[int, asyncio.Event]]:
    """A port that leads to `port` while the event is set, else nothing passes, in either direction."""
    thawed = asyncio.Event()
    thawed.set()
    tasks = Tasks("freezer")

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            while data := await reader.read(65536):
                await thawed.wait()
                writer.write(data)
                await writer.drain()
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        tasks.start(pump(reader, far_writer), "there")
        tasks.start(pump(far_reader, writer), "back")

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], thawed
    finally:
        server.close()
        await tasks.close()


def rss(pid: int) -> int:
    """Resident memory in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no process {pid}")
