"""Wires the node daemon together, and takes it apart again in order."""

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any

import uvloop

from tproxy.errors import ClusterError, TproxyError
from tproxy.kube.api import ApiCluster
from tproxy.kube.config import load
from tproxy.rpc.server import TunnelServer
from tproxy.steer.choose import open_steering
from tproxy.steer.port import Steering
from tproxy.tasks import Tasks
from tproxy.version import VERSION
from tproxy_node import logs, metrics, options, privileges
from tproxy_node.containers import Containers
from tproxy_node.debug.asking import Asking
from tproxy_node.debug.capturing import Captures
from tproxy_node.debug.door import Door
from tproxy_node.debug.flows import FlowsAnswer
from tproxy_node.debug.questions import Questions
from tproxy_node.debug.status import Here, Status
from tproxy_node.debug.subjects import Subjects
from tproxy_node.debug.tracing import Traces
from tproxy_node.debug.why import Why
from tproxy_node.dial.dialling import Dialling
from tproxy_node.dial.origins import Origins
from tproxy_node.dial.surroundings import Surroundings
from tproxy_node.direct import DirectDoor
from tproxy_node.http import HttpServer
from tproxy_node.lease import Lease
from tproxy_node.mirror import Mirror
from tproxy_node.opening import Identity, Openings
from tproxy_node.options import Options
from tproxy_node.owners import Owners
from tproxy_node.personal.figures import Figures
from tproxy_node.places import Places
from tproxy_node.pool import Pools
from tproxy_node.probing import Probing
from tproxy_node.reading import Reading
from tproxy_node.reconcile import Parts, Reconciler
from tproxy_node.relay import Relay
from tproxy_node.sessions import Sessions
from tproxy_node.status import StatusWriter

log = logging.getLogger(__name__)

SPARE_DESCRIPTORS = 1024
DETACH_SECONDS = 1.5
STATUS_SECONDS = 1.5
FINISH_SECONDS = 1.5
"""Together less than the 5 s that the kubelet grants."""


class Daemon:
    """All parts, made in a running loop."""

    def __init__(self, options: Options, descriptors: int) -> None:
        self._options = options
        self._stopping = False
        config = load(options.kubeconfig)
        self._cluster = ApiCluster(config)
        self._openings = Openings()
        self._sessions = Sessions(self._cluster, self._changed, openings=self._openings)
        self._mirror = Mirror(options.node, self._changed, self._sessions.applied, self._sessions.removed)
        self._reading = Reading(Containers(options.proc), lambda: self._mirror.pods, options.environment, options.files)
        self._reading.join(self._openings)
        total = min(options.limits.total, max(64, (descriptors - SPARE_DESCRIPTORS) // 2))
        self._probing = Probing(options.probe_agents)
        self._relay = Relay(self._sessions.pick, replace(options.limits, total=total), self._probing)
        figures = Figures(self._intercepts_of, self._relay.tally.requests)
        figures.serve_in(self._openings)
        self._tasks = Tasks("daemon")
        self._statuses = StatusWriter(self._cluster, options.node)
        self._owners = Owners(self._cluster, self._changed)
        self._steering = _open_steering(options.steering)
        self._pools = Pools(options.proc, self._changed)
        self._lease = Lease(self._steering, self._pools)
        places = Places(options.proc)
        self._surroundings = Surroundings(self._cluster, config.server, options.proc)
        self._origins = Origins(lambda: self._mirror.pods, places)
        self._dialling = Dialling(self._origins, options.dial, lambda: self._surroundings.where, options.dial_limits)
        self._dialling.serve_in(self._openings)
        self._reconciler = Reconciler(
            Parts(
                mirror=self._mirror,
                sessions=self._sessions,
                owners=self._owners,
                steering=self._steering,
                places=places,
                relay=self._relay,
                pools=self._pools,
                statuses=self._statuses,
            )
        )
        self._asking = Asking(questions := Questions())
        self._door = Door(questions, options.socket)
        here = Here(
            options, self._steering.name, self._mirror, self._sessions, self._reconciler, self._relay, self._lease
        )
        Status(here).join(questions)
        FlowsAnswer(here).join(questions)
        subjects = Subjects(lambda: self._mirror.pods, places, options.node)
        Traces(subjects, self._relay).join(questions)
        Captures(subjects).join(questions)
        Why(here, subjects).join(questions)
        self._asking.join(self._openings)
        # The first is for port-forwards, the second, if there is one, for who comes directly.
        doors = 2 if options.direct is not None else 1
        self._servers = [
            TunnelServer[Identity](options.node, self._sessions.authenticate, self._sessions.add) for _ in range(doors)
        ]
        self._direct = DirectDoor(self._servers[1], options.direct) if options.direct is not None else None
        self._metrics = metrics.Metrics(
            metrics.Sources(
                sessions=self._sessions,
                relay=self._relay,
                pools=self._pools,
                reconciler=self._reconciler,
                lease=self._lease,
                dialling=self._dialling,
                refused=lambda: sum(server.refused for server in self._servers),
                backend=self._steering.name,
            )
        )
        self._http = HttpServer(self._unready, self._metrics.render, metrics.CONTENT_TYPE)

    def _changed(self) -> None:
        self._reconciler.poke()

    def _intercepts_of(self, session: str) -> list[str]:
        return [intercept.uid for intercept in self._mirror.intercepts if intercept.session_uid == session]

    def _unready(self) -> str:
        if self._stopping:
            return "stopping"
        missing = self._mirror.missing
        return f"waiting for the API server to list {missing}" if missing else ""

    async def start(self) -> None:
        """Listen, watch, steer. Raises `TproxyError`."""
        http, grpc = self._options.http, self._options.grpc
        await self._http.start(http.host, http.port)
        await self._door.start()
        port = await self._servers[0].start(grpc.host, grpc.port)
        if self._direct is not None:
            await self._direct.start(self._cluster)
        self._tasks.start(self._probing.follow(self._cluster, self._options.node, self._options.proc), "probing")
        self._tasks.start(self._relay.look_for_apps(), "apps")
        self._tasks.start(self._surroundings.follow(), "surroundings")
        self._tasks.start(self._origins.look(), "origins")
        self._sessions.start()
        self._reconciler.start()
        self._mirror.start(self._cluster)
        log.info(
            "node daemon %s serves",
            VERSION,
            extra={"node": self._options.node, "backend": self._steering.name, "port": port},
        )

    async def stop(self) -> None:
        """Give everything back."""
        self._stopping = True
        await self._tasks.close()
        await self._mirror.close()
        await self._door.close()
        await self._asking.close()
        await _at_most(DETACH_SECONDS, self._reconciler.stop())
        await _at_most(STATUS_SECONDS, self._statuses.settle())
        await _at_most(FINISH_SECONDS, self._relay.idle())
        await self._statuses.close()
        await self._owners.close()
        await self._reading.close()
        if self._direct is not None:
            await self._direct.close()
        await asyncio.gather(*(server.stop() for server in self._servers))
        await self._sessions.close()
        await self._dialling.close()
        await self._relay.close()
        self._lease.close()
        self._pools.close()
        self._steering.close()
        await self._http.close()
        await self._cluster.close()


def _open_steering(choice: str) -> Steering:
    try:
        return open_steering(choice)
    except TproxyError as error:
        # Whatever is missing, this node cannot do its part.
        raise ClusterError(error.message, error.hint) from error


async def _at_most(seconds: float, work: Coroutine[Any, Any, None]) -> None:
    try:
        async with asyncio.timeout(seconds):
            await work
    except TimeoutError:
        log.warning("stopping goes on without waiting for %s", work)


async def serve(options: Options, descriptors: int) -> None:
    """Run until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    daemon = Daemon(options, descriptors)
    await daemon.start()
    # What is loaded by now stays: the collector need not look at it again, nor fork copies of its pages be made.
    gc.collect()
    gc.freeze()
    await stop.wait()
    log.info("stopping")
    await daemon.stop()


def main(arguments: Sequence[str]) -> int:
    """The entry point; returns the exit code."""
    chosen = options.parse(arguments)
    logs.configure(chosen.log_level, chosen.log_format)
    try:
        privileges.require()
        descriptors = privileges.raise_descriptor_limit()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(chosen, descriptors))
    except TproxyError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"\nhint: {error.hint}", file=sys.stderr)
        return error.exit_code
    return 0
