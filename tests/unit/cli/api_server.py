"""The lab's API server in the test's process, and the kubeconfig of somebody who uses it."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml
from aiohttp import web

from tproxy.lab.api import admission, authn, rbac
from tproxy.lab.api.app import make_app
from tproxy.lab.api.portforward import Dial
from tproxy.lab.api.resources import Kind
from tproxy.lab.api.store import Store

USERS = {
    "admin": authn.admin(),
    "alice": rbac.developer("alice", "shop"),
    "nobody": authn.nobody(),
}


READY = b"HTTP/1.0 200 OK\r\n\r\n"


def dial(answer: bytes | None) -> Dial:
    """Pods that answer the first bytes on any port with `answer` and close; None: that say nothing."""

    async def connect(namespace: str, name: str, port: int) -> socket.socket:
        ours, pods = socket.socketpair()
        ours.setblocking(False)

        def serve() -> None:
            with pods:
                while pods.recv(65536):
                    if answer is not None:
                        pods.sendall(answer)
                        return

        threading.Thread(target=serve, daemon=True).start()
        return ours

    return connect


async def no_logs(namespace: str, name: str, container: str, follow: bool, tail: int | None) -> AsyncIterator[bytes]:
    """These pods say nothing."""
    for line in ():
        yield line


@contextmanager
def api_server(kinds: Sequence[Kind], fill: Callable[[Store], None], answer: bytes | None = READY) -> Iterator[str]:
    """The lab's API server in a thread of its own, with what `fill` puts into it and pods that `answer`; its
    address."""
    loop = asyncio.new_event_loop()
    address: list[str] = []
    ready, over = threading.Event(), asyncio.Event()

    async def serve() -> None:
        store = Store(kinds)
        admission.install(store)
        fill(store)
        runner = web.AppRunner(make_app(store, USERS, dial(answer), no_logs), access_log=None)
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
