"""The daemon's end of the socket to the root helper (`tproxy_cli.connect.helper` has the messages)."""

import asyncio
import json
import logging
import socket
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tproxy.errors import TproxyError
from tproxy.tasks import Tasks
from tproxy_cli.run import packets

log = logging.getLogger(__name__)

ALIVE_SECONDS = 1.0
READY_SECONDS = 15.0
RESOLVED_SECONDS = 15.0
MOST_AT_ONCE = 1000
READY_SOCKETS = 8
"""Sockets of a kind that are kept at hand, once the first has been asked for."""

Json = dict[str, Any]
Socket = socket.socket


class HelperLink:
    """Takes over `sock`. `on_gone` is called once, with a sentence, when the helper has gone without being asked to."""

    def __init__(self, sock: socket.socket, on_gone: Callable[[str], None]) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._on_gone = on_gone
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[dict[str, Socket]] = self._loop.create_future()
        self._changes: dict[str, bool] = {}
        self._requests: deque[Json] = deque()
        self._verdicts: list[tuple[int, str | None]] = []
        self._work = asyncio.Event()
        self._made: dict[tuple[int, int], deque[Socket]] = {}
        self._asked: deque[tuple[tuple[int, int], asyncio.Future[None]]] = deque()
        self._asking: dict[tuple[int, int], asyncio.Future[None]] = {}
        self._closed = self._leaving = False
        self._resolved: asyncio.Future[bool] | None = None
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._tasks = Tasks("helper")
        self._loop.add_reader(sock, self._read)

    async def begin(self) -> dict[str, Socket]:
        """Have everything installed; the sockets, by name. Raises TproxyError."""
        self._requests.append({"begin": {}})
        self._work.set()
        self._tasks.start(self._write(), "write")
        try:
            async with asyncio.timeout(READY_SECONDS):
                made = await self._ready
        except TimeoutError:
            raise TproxyError(f"the root helper did not answer within {READY_SECONDS:.0f} s") from None
        self._tasks.start(self._keep_alive(), "alive")
        return made

    def change(self, address: str, caught: bool) -> None:
        """Catch an address or a network, or no more."""
        self._changes[address] = caught
        self._work.set()

    async def route_names(self, domains: Sequence[tuple[str, bool]]) -> bool:
        """Have systemd-resolved ask here for names below these domains; whether it is there to do so."""
        self._resolved = self._loop.create_future()
        self._requests.append({"resolved": {"domains": [list(one) for one in domains]}})
        self._work.set()
        try:
            async with asyncio.timeout(RESOLVED_SECONDS):
                return await self._resolved
        except TimeoutError:
            return False

    def verdict(self, number: int, name: str | None) -> None:
        """Decide about a packet that waits in the queue; without a name it is dropped.

        Somebody waits for it: verdicts go ahead of requests, all that have come about together in one message.
        """
        if not self._verdicts:
            self._loop.call_soon(self._give_verdicts)
        self._verdicts.append((number, name))

    def catch_dns(self, servers: Iterable[str]) -> None:
        """Catch port 53 of these addresses and of no others."""
        self._requests.append({"dns": {"servers": list(servers)}})
        self._work.set()

    async def socket(self, family: int, kind: int) -> Socket:
        """An unbound, non-blocking socket whose packets are not caught. Raises OSError."""
        wanted = (int(family), int(kind))
        ready = self._made.setdefault(wanted, deque())
        while not ready:
            await asyncio.shield(self._more(wanted))
        if len(ready) <= READY_SOCKETS // 2:
            self._more(wanted)
        return ready.popleft()

    async def close(self) -> None:
        """Let go: the helper undoes everything. Idempotent."""
        self._end("", told=False)
        await self._tasks.close()

    async def wait_undone(self) -> None:
        """Say that nothing more will come, and wait until the helper has gone, and with it everything."""
        if not self._closed:
            self._leaving = True
            self._sock.shutdown(socket.SHUT_WR)
            await asyncio.shield(self._gone)

    def _give_verdicts(self) -> None:
        verdicts, self._verdicts = self._verdicts, []
        for at in range(0, len(verdicts), MOST_AT_ONCE):
            message = {"verdicts": verdicts[at : at + MOST_AT_ONCE]}
            try:
                packets.send(self._sock, message)
            except BlockingIOError:
                self._requests.append(message)
                self._work.set()
            except OSError:
                return  # the helper has gone, which `_read` hears of

    def _more(self, wanted: tuple[int, int]) -> "asyncio.Future[None]":
        coming = self._asking.get(wanted)
        if coming is None:
            coming = self._asking[wanted] = self._loop.create_future()
            coming.add_done_callback(lambda future: future.exception())  # not everybody waits
            if self._closed:
                del self._asking[wanted]
                coming.set_exception(ConnectionError("the root helper has gone"))
            else:
                self._asked.append((wanted, coming))
                self._requests.append({"family": wanted[0], "kind": wanted[1], "count": READY_SOCKETS})
                self._work.set()
        return coming

    async def _keep_alive(self) -> None:
        while True:
            self._requests.append({"alive": {}})
            self._work.set()
            await asyncio.sleep(ALIVE_SECONDS)

    async def _write(self) -> None:
        try:
            while True:
                await self._work.wait()
                self._work.clear()
                while self._requests or self._changes:
                    # Changes go first: who is answered a request knows that they have been made.
                    message = self._next_changes() if self._changes else self._requests.popleft()
                    await self._loop.sock_sendall(self._sock, json.dumps(message, separators=(",", ":")).encode())
        except OSError as error:
            if not self._leaving:
                self._end(f"the root helper cannot be told anything: {error.strerror}")

    def _next_changes(self) -> Json:
        batch = [self._changes.popitem() for _ in range(min(MOST_AT_ONCE, len(self._changes)))]
        add = [address for address, caught in batch if caught]
        return {"change": {"add": add, "delete": [address for address, caught in batch if not caught]}}

    def _read(self) -> None:
        while not self._closed:
            try:
                received = packets.receive(self._sock)
            except BlockingIOError:
                return
            except (OSError, ValueError):
                received = None
            if received is None:
                self._end("the root helper has ended")
                return
            message, descriptors = received
            made = [socket.socket(fileno=one) for one in descriptors]
            for one in made:
                one.setblocking(False)
            if "failed" in message:
                self._end(f"the root helper: {message['failed']}")
            elif "ready" in message:
                self._ready.set_result(dict(zip(message["ready"]["sockets"], made, strict=True)))
            elif "resolved" in message:
                if self._resolved is not None and not self._resolved.done():
                    self._resolved.set_result(message["resolved"] is True)
            elif self._asked:
                self._take(made)

    def _take(self, made: list[Socket]) -> None:
        wanted, coming = self._asked.popleft()
        self._asking.pop(wanted, None)
        self._made.setdefault(wanted, deque()).extend(made)
        if made:
            coming.set_result(None)
        else:
            coming.set_exception(OSError("no socket could be made"))

    def _end(self, why: str, told: bool = True) -> None:
        if self._closed:
            return
        self._closed = True
        self._gone.set_result(None)
        self._loop.remove_reader(self._sock)
        self._sock.close()
        while self._asked:
            self._asked.popleft()[1].set_exception(ConnectionError("the root helper has gone"))
        for made in self._made.values():
            while made:
                made.popleft().close()
        if self._resolved is not None and not self._resolved.done():
            self._resolved.set_result(False)
        if not self._ready.done():
            if told:
                self._ready.set_exception(TproxyError(why, "see what it printed"))
            else:
                self._ready.cancel()
        elif told and not self._leaving:
            self._on_gone(why)
