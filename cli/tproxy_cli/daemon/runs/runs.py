"""All runs of the daemon: each begins with a command line at the door and ends with it."""

import logging
import socket
from collections.abc import Awaitable, Callable

from tproxy.model.workload import TargetQuery
from tproxy.version import VERSION
from tproxy_cli.daemon.outbound.port import Outbound
from tproxy_cli.daemon.requests import Where
from tproxy_cli.daemon.runs.door import Client, GoneError
from tproxy_cli.daemon.runs.names import resolv_conf
from tproxy_cli.daemon.runs.run import Json, Run, RunRequest

log = logging.getLogger(__name__)

Open = Callable[[Where, TargetQuery | None, Callable[[str], None]], Awaitable[Outbound]]
"""Opens a way into a cluster, saying what it does. Raises TproxyError."""


class Runs:
    """Serves command lines."""

    def __init__(self, open_outbound: Open) -> None:
        self._open = open_outbound
        self._runs: dict[str, Run] = {}

    @property
    def idle(self) -> bool:
        """Whether there are none."""
        return not self._runs

    def get(self, name: str) -> Run | None:
        """The run of that id."""
        return self._runs.get(name)

    def status(self) -> list[Json]:
        """All of them."""
        return [run.status() for run in self._runs.values()]

    async def serve(self, client: Client) -> None:
        """Be there for one command line. Raises GoneError when it is gone, and TproxyError."""
        body, _ = await client.receive("open")
        request = RunRequest.of(body)
        outbound = await self._open(request.where, request.target, lambda text: client.send({"progress": text}))
        run = Run(request, outbound, lambda text, hint: client.send({"warn": {"message": text, "hint": hint}}))
        try:
            client.send(
                {
                    "opened": {
                        "version": VERSION,
                        "resolvConf": resolv_conf(outbound),
                        "origin": outbound.origin,
                        "node": outbound.node,
                    }
                }
            )
            content, descriptors = await client.receive("serve")
            *passed, inside = [socket.socket(fileno=descriptor) for descriptor in descriptors]
            names = [str(name) for name in content["sockets"]]
            self._runs[request.id] = run
            log.info("run begins", extra={"run": request.id, "origin": outbound.origin})
            await run.serve(dict(zip(names, passed, strict=True)), inside)
            client.send({"serving": {}})
            await client.receive("end")
        except GoneError:
            log.info("the command line is gone", extra={"run": request.id})
            raise
        finally:
            self._runs.pop(request.id, None)
            await run.close()
            log.info("run ended", extra={"run": request.id})
            client.send({"ended": {}})
