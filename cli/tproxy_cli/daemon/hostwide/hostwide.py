"""`tproxy connect` and `disconnect`: the one host-wide connection that a laptop has at a time.

connect ──▶ a way into the cluster, a socket to meet the helper at
                the command line connects there and starts the helper through sudo with that as its stdin
await   ──▶ installed, serving ──▶ disconnect, quit, the helper's end
"""

import asyncio
import contextlib
import ipaddress
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tproxy.errors import ConflictError, InvalidError, TproxyError
from tproxy.tasks import Tasks
from tproxy_cli.connect.layout import Network
from tproxy_cli.daemon.cluster import LaptopCluster
from tproxy_cli.daemon.hostwide.connection import Connection
from tproxy_cli.daemon.outbound.way import Way, open_outbound
from tproxy_cli.daemon.peer import peer_uid
from tproxy_cli.daemon.requests import Body, Where

log = logging.getLogger(__name__)

HELPER_SECONDS = 300.0
"""How long a person may take to type a password."""

MOST_NETWORKS = 256

Json = dict[str, Any]
Find = Callable[[Where], Awaitable[tuple[LaptopCluster, str]]]


@dataclass(frozen=True, slots=True)
class ConnectRequest:
    """`tproxy connect`."""

    where: Where
    also: tuple[Network, ...]
    never: tuple[Network, ...]

    @classmethod
    def of(cls, body: Body) -> "ConnectRequest":
        """Read a request's body. Raises InvalidError."""
        return cls(Where.of(body), _networks(body.get("alsoProxy", [])), _networks(body.get("neverProxy", [])))


class HostWide:
    """Sockets are made in `directory`."""

    def __init__(self, find: Find, directory: Path) -> None:
        self._find = find
        self._path = directory / "connect.sock"
        self._cluster: LaptopCluster | None = None
        self._namespace = ""
        self._way: Way | None = None
        self._connection: Connection | None = None
        self._serving: asyncio.Future[Connection] | None = None
        self._listener: socket.socket | None = None
        self._error = ""
        self._tasks = Tasks("connect")
        self._undoing = Tasks("disconnect")  # apart: `disconnect` ends the others
        self._closing = asyncio.Lock()

    @property
    def idle(self) -> bool:
        """Whether there is none, nor about to be one."""
        return self._cluster is None

    async def connect(self, request: ConnectRequest, say: Callable[[str], None]) -> Json:
        """Open a way and wait for the helper at `socket`. Raises TproxyError."""
        cluster, namespace = await self._find(request.where)
        if self._cluster is not None:
            if self._connection is None:
                raise ConflictError("another `tproxy connect` is under way", "wait for it, or `tproxy disconnect`")
            if (cluster, namespace) == (self._cluster, self._namespace):
                return {"already": True, **self.status()[0]}
            raise ConflictError(
                f'this laptop is connected to namespace "{self._namespace}" of context {self._cluster.config.context}',
                "`tproxy disconnect` first; `tproxy run` reaches several at once",
            )
        self._cluster, self._namespace, self._error = cluster, namespace, ""
        try:
            say(f'opening a way into namespace "{namespace}"')
            self._way = await open_outbound(cluster, namespace)
            self._listen()
            self._serving = asyncio.get_running_loop().create_future()
            self._serving.add_done_callback(lambda future: future.cancelled() or future.exception())
            self._tasks.start(self._meet(request), "meet")
        except BaseException:
            await self.disconnect()
            raise
        return {"already": False, "socket": str(self._path), "origin": self._way.origin, "node": self._way.node}

    async def wait(self) -> Json:
        """Wait until what was begun serves. Raises TproxyError."""
        if self._serving is None:
            raise TproxyError(self._error or "there is no connection under way", "run `tproxy connect`")
        await asyncio.shield(self._serving)
        return self.status()[0]

    async def disconnect(self) -> Json:
        """Undo everything; whether there was anything."""
        began = time.monotonic()
        async with self._closing:
            there = self._cluster
            self._stop_listening()
            await self._tasks.close()
            connection, self._connection = self._connection, None
            way, self._way = self._way, None
            if self._serving is not None and not self._serving.done():
                self._serving.set_exception(TproxyError("the connection was given up", "run `tproxy connect` again"))
            self._serving = None
            if connection is not None:
                await connection.close()
            elif way is not None:
                await way.close()
            namespace, self._cluster = self._namespace, None
        shown = {"namespace": namespace, "context": there.config.context} if there is not None else {}
        return {"was": there is not None, "seconds": round(time.monotonic() - began, 3), **shown}

    def status(self) -> list[Json]:
        """The connection, if there is one."""
        if self._cluster is None:
            return []
        shown = {"context": self._cluster.config.context, "namespace": self._namespace}
        if self._connection is None:
            return [{**shown, "state": "connecting"}]
        return [{**shown, "state": "connected", **self._connection.status()}]

    def _listen(self) -> None:
        self._path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(self._path))  # in a directory that is ours alone
        os.chmod(self._path, 0o600)
        self._listener.listen(1)
        self._listener.setblocking(False)

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            self._path.unlink(missing_ok=True)

    async def _meet(self, request: ConnectRequest) -> None:
        """Take the helper's socket from the command line, and begin."""
        assert self._listener is not None and self._way is not None and self._cluster is not None  # noqa: S101, PT018
        serving = self._serving
        try:
            async with asyncio.timeout(HELPER_SECONDS):
                sock, _ = await asyncio.get_running_loop().sock_accept(self._listener)
            if peer_uid(sock) != os.getuid():
                sock.close()
                raise TproxyError("somebody else's process came instead of the root helper")
            self._stop_listening()
            made = Connection(
                self._way, self._cluster.addresses, sock, request.also, request.never, self._helper_has_gone
            )
            try:
                await made.begin()
            except BaseException:
                await made.close()
                raise
            self._connection = made
            log.info("connected host-wide", extra={"namespace": self._namespace})
            if serving is not None and not serving.done():
                serving.set_result(made)
        except (TproxyError, TimeoutError) as error:
            text = error.message if isinstance(error, TproxyError) else "no root helper has come"
            log.warning("not connected: %s", text)
            self._give_up(text)

    def _helper_has_gone(self, why: str) -> None:
        log.warning("the host-wide connection has ended: %s", why)
        self._give_up(why)

    def _give_up(self, why: str) -> None:
        self._error = why
        if self._serving is not None and not self._serving.done():
            self._serving.set_exception(TproxyError(why, "run `tproxy connect` again"))
        self._undoing.start(self.disconnect(), "undo")

    async def close(self) -> None:
        """Undo everything, at the daemon's end."""
        with contextlib.suppress(TproxyError):
            await self.disconnect()


def _networks(texts: object) -> tuple[Network, ...]:
    if not isinstance(texts, list) or len(texts) > MOST_NETWORKS:
        raise InvalidError(f"more than {MOST_NETWORKS} networks")
    return tuple(parse_network(str(text)) for text in texts)


def parse_network(text: str) -> Network:
    """An address or a network in CIDR notation. Raises InvalidError."""
    try:
        found = ipaddress.ip_network(text)
    except ValueError as error:
        raise InvalidError(
            f'"{text[:100]}" is no network: {error}', "write it as 10.96.0.0/16, 10.96.0.7 or fd96::/112"
        ) from error
    if found.is_loopback or found.is_multicast or found.is_link_local:
        raise InvalidError(f"{found} never leaves the laptop", "name a network of the cluster's")
    return found
