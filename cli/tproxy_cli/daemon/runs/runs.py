"""All runs of the daemon: each begins with a command line at the door and ends with it."""

import asyncio
import errno
import logging
import socket
from collections.abc import Awaitable, Callable, Collection
from typing import Protocol

from tproxy.errors import ConflictError
from tproxy.model.workload import TargetQuery
from tproxy.version import VERSION
from tproxy_cli.daemon.given.directory import overlap
from tproxy_cli.daemon.given.running import GivenToRun
from tproxy_cli.daemon.held import LocalApp
from tproxy_cli.daemon.inbound import connect_laptop
from tproxy_cli.daemon.outbound.port import Outbound
from tproxy_cli.daemon.requests import Where
from tproxy_cli.daemon.runs.door import Client, GoneError
from tproxy_cli.daemon.runs.giving import Giving
from tproxy_cli.daemon.runs.names import resolv_conf
from tproxy_cli.daemon.runs.run import Json, Run, RunRequest
from tproxy_cli.run import packets

log = logging.getLogger(__name__)


class Lease(Protocol):
    """A share in a way into a cluster."""

    @property
    def outbound(self) -> Outbound:
        """The way."""

    @property
    def release(self) -> Callable[[], None]:
        """Gives the share up."""


class Ways(Protocol):
    """Opens ways into clusters."""

    async def open(self, where: Where, target: TargetQuery | None, say: Callable[[str], None]) -> Lease:
        """A share in one, saying what is being done. Raises TproxyError."""

    async def close(self) -> None:
        """Close all."""


Give = Callable[[RunRequest, Outbound], Awaitable[GivenToRun]]
"""Where what a run's container was given is to be had. Raises TproxyError."""


class Runs:
    """Serves command lines."""

    def __init__(self, ways: Ways, give: Give, on_end: Callable[[str], Awaitable[None]]) -> None:
        """`on_end` is told the id of each run that is over."""
        self._ways = ways
        self._give = give
        self._on_end = on_end
        self._runs: dict[str, Run] = {}

    @property
    def idle(self) -> bool:
        """Whether there are none."""
        return not self._runs

    @property
    def ids(self) -> Collection[str]:
        """Of all of them."""
        return self._runs.keys()

    async def connect(self, app: LocalApp, protocol: Callable[[], asyncio.Protocol]) -> None:
        """Connect to a local app, be it a run's or the laptop's own. Raises OSError."""
        if not app.run:
            await connect_laptop(app, protocol)
        elif (run := self._runs.get(app.run)) is not None:
            await run.connect(app.port, protocol)
        else:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "its run is not there")

    def status(self) -> list[Json]:
        """All of them."""
        return [run.status() for run in self._runs.values()]

    async def close(self) -> None:
        """Close the ways; the runs that use them end by themselves."""
        await self._ways.close()

    async def serve(self, client: Client) -> None:
        """Be there for one command line. Raises GoneError when it is gone, and TproxyError."""
        body, _ = await client.receive("open")
        request = RunRequest.of(body)
        lease = await self._ways.open(request.where, request.target, lambda text: client.send({"progress": text}))

        def warn(text: str, hint: str) -> None:
            client.send({"warn": {"message": text, "hint": hint}})

        run = Run(request, lease.outbound, warn)
        giving: Giving | None = None
        try:
            variables: list[int] = []
            if request.given is not None:
                self._check_directory(request.given.directory)
                client.send({"progress": f"reading what {lease.outbound.origin} was given"})
                giving = Giving(await self._give(request, lease.outbound), request.given, warn)
                variables = await giving.read()
            client.send({"opened": _opened(lease.outbound)}, variables)
            packets.close(variables)
            content, descriptors = await client.receive("serve")
            *passed, inside = [socket.socket(fileno=descriptor) for descriptor in descriptors]
            names = [str(name) for name in content["sockets"]]
            self._runs[request.id] = run
            log.info("run begins", extra={"run": request.id, "origin": lease.outbound.origin})
            await run.serve(dict(zip(names, passed, strict=True)), inside)
            files = await giving.show(run.inside) if giving is not None and run.inside is not None else None
            client.send({"serving": {"files": files}})
            await client.receive("end")
        except GoneError:
            log.info("the command line is gone", extra={"run": request.id})
            raise
        finally:
            self._runs.pop(request.id, None)
            await self._on_end(request.id)
            if giving is not None:
                await giving.close()
            await run.close()
            lease.release()
            log.info("run ended", extra={"run": request.id})
            client.send({"ended": {}})

    def _check_directory(self, directory: str) -> None:
        for run in self._runs.values():
            given = run.request.given
            if directory and given is not None and overlap(given.directory, directory):
                raise ConflictError(
                    f"{given.directory} has the files of another run, process {run.request.pid}",
                    "take another directory",
                )


def _opened(outbound: Outbound) -> Json:
    return {
        "version": VERSION,
        "resolvConf": resolv_conf(outbound),
        "origin": outbound.origin,
        "node": outbound.node,
    }
