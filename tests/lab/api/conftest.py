"""The API server on a loopback port, in a loop and thread of its own, for clients that block."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml
from aiohttp import web

from tproxy.kube.port import PODS, Object
from tproxy.lab.api import admission, authn, rbac
from tproxy.lab.api.app import make_app
from tproxy.lab.api.authn import User
from tproxy.lab.api.resources import builtin_kinds, custom_kinds
from tproxy.lab.api.store import Store
from tproxy.lab.controllers import loop as controllers
from tproxy.tasks import Tasks

Result = TypeVar("Result")

HISTORY = 64


async def dial(namespace: str, pod: str, port: int) -> socket.socket:
    """In place of a pod's namespace: this machine's loopback."""
    sock = socket.socket()
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    except OSError:
        sock.close()
        raise
    return sock


async def read_logs(namespace: str, pod: str, container: str, follow: bool, tail: int | None) -> AsyncIterator[bytes]:
    """A log of three lines; followed, two more come."""
    lines = [f"{namespace}/{pod} {number}\n".encode() for number in range(3)]
    yield b"".join(lines if tail is None else lines[-tail:])
    if follow:
        yield b"more\n"
        yield b"and more\n"


class Server:
    """A running API server. `store` belongs to the server's thread: use it through `call`. `peer` needs no token."""

    def __init__(self, peer: User | None = None) -> None:
        self._peer = peer or authn.admin()
        self.store = Store([*builtin_kinds(), *custom_kinds()], history=HISTORY)
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._started: Future[None] = Future()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "Server":
        self._thread.start()
        self._started.result(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)
        assert not self._thread.is_alive(), "the server does not end"
        self._loop.close()

    def call(self, function: Callable[[Store], Result]) -> Result:
        """Run `function` on the store in the server's thread."""

        async def run() -> Result:
            return function(self.store)

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    def running_pod(self, name: str = "p") -> Object:
        """A pod whose kubelet has reported it as running."""
        spec: Object = {"nodeName": "node1", "containers": [{"name": "c"}]}

        def create(store: Store) -> Object:
            store.create(PODS, {"metadata": {"name": name}, "spec": spec})
            return store.patch(PODS, name, {"status": {"phase": "Running"}}, subresource="status")

        return self.call(create)

    async def _run(self) -> None:
        admission.install(self.store)
        tasks = Tasks("controllers")
        controllers.start(self.store, tasks)
        tokens = {
            "admin-token": authn.admin(),
            "dora-token": rbac.developer("dora", "default"),
            "nemo-token": authn.nobody("nemo"),
        }
        # kubectl sends no token over plain HTTP, so it is known by the address that it comes from.
        peers = {"127.0.0.1": self._peer}
        runner = web.AppRunner(make_app(self.store, tokens, dial, read_logs, peers), access_log=None)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.port = runner.addresses[0][1]
            self._started.set_result(None)
            await self._stop.wait()
        finally:
            await tasks.close()
            await runner.cleanup()


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture
def kubeconfig(server: Server, tmp_path: Path) -> Path:
    """A kubeconfig with one context for each user."""
    users = {name: f"{name}-token" for name in ("admin", "dora", "nemo")}
    config: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "admin",
        "clusters": [{"name": "lab", "cluster": {"server": server.url}}],
        "users": [{"name": name, "user": {"token": token}} for name, token in users.items()],
        "contexts": [{"name": name, "context": {"cluster": "lab", "user": name}} for name in users],
    }
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path
