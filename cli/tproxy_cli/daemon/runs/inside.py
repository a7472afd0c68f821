"""The process inside a run's namespaces, as the daemon sees it: it makes sockets there, and puts files there."""

import asyncio
import contextlib
import functools
import os
import secrets
import socket
from collections import deque
from collections.abc import Sequence

from tproxy.connecting import connect
from tproxy.errors import TproxyError
from tproxy_cli.daemon.given.running import Files
from tproxy_cli.run import packets
from tproxy_cli.run.packets import Json

READY = 8
"""Sockets of a kind that are kept at hand, once the first has been asked for."""

_Answer = asyncio.Future[tuple[Json, list[int]]]


class Inside:
    """Takes over `sock`, the way to that process."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._ready: dict[tuple[int, int], deque[socket.socket]] = {}
        self._asked: dict[str, _Answer] = {}
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

    async def put(self, files: Files, directory: str) -> Json:
        """Show a container's files to the command, below `directory` as well unless that is empty; what there is to be
        known of that. Raises TproxyError."""
        memory = os.memfd_create("tproxy-files", os.MFD_CLOEXEC)
        try:
            with os.fdopen(os.dup(memory), "wb") as file:
                file.write(files.archive)
            asked = self._ask({"files": {"mounts": files.mounts, "directory": directory}}, [memory])
            message, descriptors = await asked
        except OSError as error:
            raise TproxyError(f"files could not be handed to the command: {error}", "run the command again") from error
        finally:
            os.close(memory)
        packets.close(descriptors)
        if "error" in message:
            raise TproxyError(message["error"]["message"], message["error"]["hint"])
        return message

    def close(self) -> None:
        """Give up sockets that nobody has taken."""
        self._end()
        for ready in self._ready.values():
            while ready:
                ready.popleft().close()

    def _ask(self, message: Json, descriptors: Sequence[int] = ()) -> _Answer:
        """Ask for something; the answer. Raises OSError."""
        if self.gone:
            raise ConnectionError("the process inside is gone")
        number = secrets.token_hex(8)  # an earlier daemon may have asked, too
        packets.send(self._sock, {"id": number, **message}, descriptors)
        answer = self._asked[number] = self._loop.create_future()
        return answer

    def _more(self, wanted: tuple[int, int]) -> "asyncio.Future[None]":
        """Ask for more unless that is under way; done when they are there, or an OSError."""
        coming = self._asking.get(wanted)
        if coming is None:
            coming = self._asking[wanted] = self._loop.create_future()
            coming.add_done_callback(lambda future: future.exception())  # not everybody waits
            try:
                answer = self._ask({"family": wanted[0], "kind": wanted[1], "count": READY})
                answer.add_done_callback(functools.partial(self._take, wanted, coming))
            except OSError as error:
                del self._asking[wanted]
                coming.set_exception(error)
        return coming

    def _take(self, wanted: tuple[int, int], coming: "asyncio.Future[None]", answer: _Answer) -> None:
        self._asking.pop(wanted, None)
        if (error := answer.exception()) is not None:
            coming.set_exception(error)
            return
        made = [socket.socket(fileno=descriptor) for descriptor in answer.result()[1]]
        for one in made:
            one.setblocking(False)
        if self.gone:  # meanwhile, so that nobody will want them
            for one in made:
                one.close()
        self._ready.setdefault(wanted, deque()).extend([] if self.gone else made)
        if made and not self.gone:
            coming.set_result(None)
        else:
            coming.set_exception(OSError("no socket could be made in the namespace"))

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
            asked = self._asked.pop(str(received[0].get("id")), None)
            if asked is None or asked.done():  # an answer to an earlier daemon, or to nobody any more
                packets.close(received[1])
            else:
                asked.set_result(received)

    def _end(self) -> None:
        if self.gone:
            return
        self.gone = True
        self._loop.remove_reader(self._sock)
        self._sock.close()
        while self._asked:
            _, asked = self._asked.popitem()
            if not asked.done():
                asked.set_exception(ConnectionError("the process inside is gone"))
                asked.add_done_callback(lambda future: future.exception())


async def connect_inside(inside: Inside, port: int) -> socket.socket:
    """A socket connected to a port inside, at 127.0.0.1 or at ::1. Raises OSError, with what 127.0.0.1 said."""
    failure: OSError | None = None
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with contextlib.ExitStack() as undo:
            try:
                made = await inside.socket(family, socket.SOCK_STREAM)
                undo.callback(made.close)
                await connect(made, (host, port))
            except OSError as error:
                failure = failure or error
            else:
                undo.pop_all()
                return made
    assert failure is not None  # noqa: S101
    raise failure
