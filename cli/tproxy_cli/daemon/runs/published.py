"""Ports inside a run that are reachable on the laptop, at its loopback addresses."""

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from tproxy.errors import TproxyError
from tproxy.tasks import Tasks
from tproxy.tunnel.splice import Splice
from tproxy_cli.daemon.runs.inside import Inside, connect_inside


@dataclass(frozen=True, slots=True)
class Publication:
    """A port of the laptop and the port inside that it leads to."""

    laptop: int
    inside: int


class Published:
    """Listens until `close`."""

    def __init__(self, inside: Inside) -> None:
        self._inside = inside
        self._servers: list[asyncio.Server] = []
        self._splices: set[Splice] = set()
        self._tasks = Tasks("published")

    async def serve(self, publications: Sequence[Publication]) -> None:
        """Begin. Raises TproxyError if a port is taken."""
        for one in publications:
            self._servers += await self._listen(one)

    async def close(self) -> None:
        """Close the ports and reset what is open."""
        for server in self._servers:
            server.close()
        for splice in list(self._splices):
            splice.abort()
        await self._tasks.close()

    async def _listen(self, publication: Publication) -> list[asyncio.Server]:
        loop = asyncio.get_running_loop()
        servers = []
        for host in ("127.0.0.1", "::1"):
            try:
                servers.append(
                    await loop.create_server(lambda: self._accepted(publication.inside), host, publication.laptop)
                )
            except OSError as error:
                if host == "::1" and not isinstance(error, PermissionError) and error.errno != 98:
                    continue  # a laptop without IPv6
                raise TproxyError(
                    f"cannot listen on port {publication.laptop} of the laptop: {error.strerror}",
                    f"publish it at another one: `--publish PORT:{publication.inside}`",
                ) from error
        return servers

    def _accepted(self, port: int) -> asyncio.Protocol:
        splice = Splice()
        self._splices.add(splice)
        splice.over.add_done_callback(lambda _: self._splices.discard(splice))
        self._tasks.start(self._connect(splice, port), "connect")
        return splice.client

    async def _connect(self, splice: Splice, port: int) -> None:
        loop = asyncio.get_running_loop()
        try:
            made: socket.socket = await connect_inside(self._inside, port)
            with contextlib.ExitStack() as undo:
                undo.callback(made.close)
                await loop.create_connection(lambda: splice.app, sock=made)
                undo.pop_all()
        except OSError:
            splice.app.gone = True
            splice.abort()
