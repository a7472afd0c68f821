"""One run: everything that serves the sockets of its namespaces."""

import asyncio
import errno
import ipaddress
import logging
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tproxy.errors import InvalidError
from tproxy.model.flow import Address, ResetReason
from tproxy.model.workload import TargetQuery, parse_target
from tproxy_cli.daemon.given.running import GivenWanted
from tproxy_cli.daemon.outbound.port import Outbound
from tproxy_cli.daemon.requests import Body, Where
from tproxy_cli.daemon.runs.connections import Connections
from tproxy_cli.daemon.runs.datagrams import Datagrams
from tproxy_cli.daemon.runs.inside import Inside, connect_inside
from tproxy_cli.daemon.runs.names import Names
from tproxy_cli.daemon.runs.places import Network, Places
from tproxy_cli.daemon.runs.published import Publication, Published

log = logging.getLogger(__name__)

MOST_WARNINGS = 20
"""Refused destinations that a person is told of per run, each once."""

START_SECONDS = 30.0
"""How long a command may take until it listens at a port that it gets an intercept's connections at."""

LOOK_SECONDS = 0.05

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What a run is for. `id` names it among all runs, `command` and `pid` are for people."""

    id: str
    where: Where
    target: TargetQuery | None
    publish: tuple[Publication, ...]
    also: tuple[Network, ...]
    never: tuple[Network, ...]
    command: str
    pid: int
    given: GivenWanted | None = None

    @classmethod
    def of(cls, body: Body) -> "RunRequest":
        """Read a message. Raises InvalidError."""
        try:
            target = body.get("target")
            return cls(
                id=str(body["id"]),
                where=Where.of(body),
                target=None if target is None else parse_target(str(target)),
                publish=tuple(Publication(int(one[0]), int(one[1])) for one in body["publish"]),
                also=tuple(ipaddress.ip_network(one) for one in body["alsoProxy"]),
                never=tuple(ipaddress.ip_network(one) for one in body["neverProxy"]),
                command=str(body["command"])[:256],
                pid=int(body["pid"]),
                given=GivenWanted.of(body["given"]) if body.get("given") else None,
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise InvalidError("the daemon does not understand the run that is asked for") from error


class Run:
    """Serves until `close`. `warn` is told message and hint for the person at the command line."""

    def __init__(self, request: RunRequest, outbound: Outbound, warn: Callable[[str, str], None]) -> None:
        self.request = request
        self.outbound = outbound
        self.started = datetime.now(UTC)
        self.inside: Inside | None = None
        self._warn = warn
        self._told: set[Address] = set()
        self._listened: set[int] = set()
        self._places = Places(outbound, request.also, request.never)
        self._connections: Connections | None = None
        self._datagrams: Datagrams | None = None
        self._names: Names | None = None
        self._published: Published | None = None

    async def serve(self, sockets: Mapping[str, socket.socket], inside: socket.socket) -> None:
        """Begin to serve, taking all sockets over. Raises TproxyError."""
        self.inside = Inside(inside)
        self._connections = Connections(self._places, self._failed)
        self._connections.serve(_by_family(sockets, "tcp"), sockets.get("queue"))
        self._datagrams = Datagrams(self._places, self.inside)
        self._datagrams.serve(_by_family(sockets, "udp"))
        self._names = Names(self._places, self.request.target is not None)
        await self._names.serve(sockets["dns"], sockets["dns_tcp"])
        self._published = Published(self.inside)
        await self._published.serve(self.request.publish)

    async def close(self) -> None:
        """End everything but the way into the cluster."""
        parts = (self._published, self._connections, self._datagrams, self._names)
        await asyncio.gather(*(part.close() for part in parts if part is not None))
        if self.inside is not None:
            self.inside.close()

    async def connect(self, port: int, protocol: Callable[[], asyncio.Protocol]) -> None:
        """Connect to what the command listens at. Raises OSError.

        Until it listens at that port for the first time it is starting, and connections wait for it.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + START_SECONDS
        while True:
            try:
                if self.inside is None:
                    raise ConnectionRefusedError(errno.ECONNREFUSED, "the run has just begun")
                sock = await connect_inside(self.inside, port)
            except ConnectionRefusedError:
                if port in self._listened or loop.time() > deadline:
                    raise
                await asyncio.sleep(LOOK_SECONDS)
            else:
                break
        self._listened.add(port)
        try:
            await loop.create_connection(protocol, sock=sock)
        except BaseException:
            sock.close()
            raise

    def status(self) -> Json:
        """For people and programs."""
        return {
            "id": self.request.id,
            "pid": self.request.pid,
            "command": self.request.command,
            "origin": self.outbound.origin,
            "node": self.outbound.node,
            "trouble": self.outbound.trouble,
            "since": self.started.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "connections": self._connections.count if self._connections is not None else 0,
            "flows": self._datagrams.count if self._datagrams is not None else 0,
            "published": [{"laptop": one.laptop, "inside": one.inside} for one in self.request.publish],
        }

    def _failed(self, destination: Address, reason: ResetReason, detail: str) -> None:
        if reason is ResetReason.DENIED and destination not in self._told and len(self._told) < MOST_WARNINGS:
            self._told.add(destination)
            self._warn(f"{destination} may not be reached from the cluster: {detail}", "")
        log.debug("connection to %s: %s %s", destination, reason.value, detail)


def _by_family(sockets: Mapping[str, socket.socket], kind: str) -> list[socket.socket]:
    return [sockets[name] for name in (f"{kind}4", f"{kind}6") if name in sockets]
