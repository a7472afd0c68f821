"""The lab's API server in the test's process, and the kubeconfig of somebody who uses it."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml
from aiohttp import web

from tproxy.lab.api import admission, authn
from tproxy.lab.api.app import make_app
from tproxy.lab.api.resources import Kind
from tproxy.lab.api.store import Store

USERS = {
    "admin": authn.admin(),
    "alice": authn.developer("alice", "shop"),
    "nobody": authn.nobody(),
}


async def no_dial(namespace: str, name: str, port: int) -> socket.socket:
    """These pods have no network."""
    raise ConnectionRefusedError


async def no_logs(namespace: str, name: str, container: str, follow: bool, tail: int | None) -> AsyncIterator[bytes]:
    """These pods say nothing."""
    for line in ():
        yield line


@contextmanager
def api_server(kinds: Sequence[Kind], fill: Callable[[Store], None]) -> Iterator[str]:
    """The lab's API server in a thread of its own, with what `fill` puts into it; its address."""
    loop = asyncio.new_event_loop()
    address: list[str] = []
    ready, over = threading.Event(), asyncio.Event()

    async def serve() -> None:
        store = Store(kinds)
        admission.install(store)
        fill(store)
        runner = web.AppRunner(make_app(store, USERS, no_dial, no_logs), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        address.append("http://{}:{}".format(*runner.addresses[0]))
        ready.set()
        await over.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=[serve()])
    thread.start()
    try:
        assert ready.wait(10)
        yield address[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()


def kubeconfig(path: Path, server: str, user: str) -> str:
    """A kubeconfig file for `user` in namespace shop."""
    path.write_text(
        yaml.safe_dump(
            {
                "current-context": "lab",
                "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "me", "namespace": "shop"}}],
                "clusters": [{"name": "lab", "cluster": {"server": server}}],
                "users": [{"name": "me", "user": {"token": user}}],
            }
        )
    )
    return str(path)
