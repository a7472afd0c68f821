"""Where command lines hand over the sockets of their runs: a unix socket that keeps messages apart.

One connection is one run, and the run lives as long as the connection:

    command line ──▶ {"open": {...}}                         what the run is for
                 ◀── {"progress": TEXT}*  {"opened": {...}}  a way into the cluster stands; resolv.conf for the run,
                                                             the container's variables in a descriptor if wanted
    command line ──▶ {"serve": {...}} and descriptors        sockets of its namespaces
                 ◀── {"serving": {}}                         the command may start
                 ◀── {"warn": {...}}*                        meanwhile
                 ◀── {"bye": {}}                             the daemon is told to end
    command line ──▶ {"end": {}}
                 ◀── {"ended": {...}}                        what belonged to it has been given up

Instead of an answer there may be {"error": {"message", "hint", "exitCode"}}.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from tproxy.errors import InvalidError, TproxyError
from tproxy.tasks import Tasks
from tproxy_cli.daemon.peer import peer_uid
from tproxy_cli.run import packets
from tproxy_cli.run.packets import Json

log = logging.getLogger(__name__)

MOST_RUNS = 64
_UNREAD = 8
"""Messages of a command line that nobody has read yet; one more and it is ended."""


class GoneError(Exception):
    """The command line is gone."""


class Client:
    """A command line that has connected. Takes over `sock`."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._received: asyncio.Queue[tuple[Json, list[int]] | None] = asyncio.Queue(_UNREAD)
        self._loop.add_reader(sock, self._read)
        self._closed = False

    async def receive(self, expected: str) -> tuple[Json, list[int]]:
        """The content of the next message, which is to be of the expected kind, and its descriptors.

        Raises GoneError, and InvalidError for another kind.
        """
        received = await self._received.get()
        if received is None:
            raise GoneError
        message, descriptors = received
        content = message.get(expected)
        if not isinstance(content, dict):
            packets.close(descriptors)
            raise InvalidError(
                f"the daemon expected to be told {expected!r}",
                "command line and daemon may be of different versions: `tproxy quit`, then run the command again",
            )
        return content, descriptors

    def send(self, message: Json, descriptors: Sequence[int] = ()) -> None:
        """Send a message; one that finds no room or no reader is dropped: the next `receive` says that it is gone."""
        if not self._closed:
            with suppress(OSError):
                packets.send(self._sock, message, descriptors)

    def close(self) -> None:
        """Close the connection. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._sock)
        self._sock.close()
        while not self._received.empty():
            if (unread := self._received.get_nowait()) is not None:
                packets.close(unread[1])

    def _read(self) -> None:
        try:
            received = packets.receive(self._sock)
        except BlockingIOError:
            return
        except (OSError, ValueError):
            received = None
        if received is None:
            self._loop.remove_reader(self._sock)
        try:
            self._received.put_nowait(received)
        except asyncio.QueueFull:
            self._loop.remove_reader(self._sock)
            if received is not None:
                packets.close(received[1])
            self._received.get_nowait()
            self._received.put_nowait(None)


Serve = Callable[[Client], Awaitable[None]]
"""Serves a command line until it is gone. Raises GoneError, TproxyError."""


class Door:
    """Takes over a listening socket until `close`."""

    def __init__(self, listener: socket.socket, serve: Serve) -> None:
        self._serve = serve
        self._clients: set[Client] = set()
        self._tasks = Tasks("runs")
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._listener.setblocking(False)
        self._loop.add_reader(self._listener, self._accept)

    async def close(self) -> None:
        """Close all connections, having said so."""
        self._loop.remove_reader(self._listener)
        self._listener.close()
        for client in self._clients:
            client.send({"bye": {}})
        await self._tasks.close()

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        if peer_uid(sock) != os.getuid():
            log.warning("refused a run of another user")
            sock.close()
            return
        self._tasks.start(self._client(Client(sock)), "run")

    async def _client(self, client: Client) -> None:
        self._clients.add(client)
        try:
            if len(self._clients) > MOST_RUNS:
                raise TproxyError(f"there are {MOST_RUNS} runs already", "end some of them: `tproxy status` shows them")
            await self._serve(client)
        except GoneError:
            pass
        except TproxyError as error:
            client.send({"error": {"message": error.message, "hint": error.hint, "exitCode": error.exit_code}})
        except Exception as error:
            log.exception("a run ended unexpectedly")
            client.send({"error": {"message": f"internal error: {error}", "hint": "", "exitCode": 1}})
        finally:
            self._clients.discard(client)
            client.close()
