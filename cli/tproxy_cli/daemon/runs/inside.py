"""The process inside a run's namespaces, as the daemon sees it: it makes sockets there."""

import asyncio
import contextlib
import socket
from collections import deque

from tproxy_cli.run import packets

READY = 8
"""Sockets of a kind that are kept at hand, once the first has been asked for."""


class Inside:
    """Takes over `sock`, the way to that process."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._ready: dict[tuple[int, int], deque[socket.socket]] = {}
        self._asked: deque[tuple[tuple[int, int], asyncio.Future[None]]] = deque()
        self._asking: dict[tuple[int, int], asyncio.Future[None]] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self._read)
        self.gone = False

    async def socket(self, family: int, kind: int) -> socket.socket:
        """An unbound, non-blocking socket in the namespace. Raises OSError."""
        wanted = (family, kind)
        ready = self._ready.setdefault(wanted, deque())
        while not ready:
            await asyncio.shield(self._more(wanted))
        if len(ready) <= READY // 2:
            self._more(wanted)
        return ready.popleft()

    def close(self) -> None:
        """Give up sockets that nobody has taken."""
        self._end()
        for ready in self._ready.values():
            while ready:
                ready.popleft().close()

    def _more(self, wanted: tuple[int, int]) -> "asyncio.Future[None]":
        """Ask for more unless that is under way; done when they are there, or an OSError."""
        coming = self._asking.get(wanted)
        if coming is None:
            coming = self._asking[wanted] = self._loop.create_future()
            coming.add_done_callback(lambda future: future.exception())  # not everybody waits
            try:
                if self.gone:
                    raise ConnectionError("the process inside is gone")
                packets.send(self._sock, {"family": wanted[0], "kind": wanted[1], "count": READY})
                self._asked.append((wanted, coming))
            except OSError as error:
                del self._asking[wanted]
                coming.set_exception(error)
        return coming

    def _read(self) -> None:
        while True:
            try:
                received = packets.receive(self._sock)
            except BlockingIOError:
                return
            except (OSError, ValueError):
                received = None
            if received is None:
                self._end()
                return
            made = [socket.socket(fileno=descriptor) for descriptor in received[1]]
            for one in made:
                one.setblocking(False)
            if not self._asked:  # an answer to an earlier daemon
                for one in made:
                    one.close()
                continue
            wanted, coming = self._asked.popleft()
            self._asking.pop(wanted, None)
            self._ready.setdefault(wanted, deque()).extend(made)
            if made:
                coming.set_result(None)
            else:
                coming.set_exception(OSError("no socket could be made in the namespace"))

    def _end(self) -> None:
        if self.gone:
            return
        self.gone = True
        self._loop.remove_reader(self._sock)
        self._sock.close()
        while self._asked:
            wanted, coming = self._asked.popleft()
            self._asking.pop(wanted, None)
            coming.set_exception(ConnectionError("the process inside is gone"))


async def connect_inside(inside: Inside, port: int) -> socket.socket:
    """A socket connected to a port inside, at 127.0.0.1 or at ::1. Raises OSError, with what 127.0.0.1 said."""
    loop = asyncio.get_running_loop()
    failure: OSError | None = None
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with contextlib.ExitStack() as undo:
            try:
                made = await inside.socket(family, socket.SOCK_STREAM)
                undo.callback(made.close)
                await loop.sock_connect(made, (host, port))
            except OSError as error:
                failure = failure or error
            else:
                undo.pop_all()
                return made
    assert failure is not None  # noqa: S101
    raise failure
