"""One container: a host process in its pod's namespaces and in a cgroup of its own, kept alive and probed.

waiting ──start──► running ──exit, liveness──► terminated ──restart policy, back-off──► waiting ...
"""

import asyncio
import logging
import os
import re
import secrets
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tproxy.env.spec import Lookup, command_line, environment
from tproxy.errors import TproxyError
from tproxy.kube.port import Object
from tproxy.lab import cgroup, probes
from tproxy.lab.api.store import now
from tproxy.lab.capabilities import limited
from tproxy.lab.enter import enter, tool
from tproxy.lab.logs import open_log
from tproxy.lab.probes import Probe, Prober, Threshold
from tproxy.lab.process import Process
from tproxy.lab.sandbox import Sandbox
from tproxy.lab.volumes import PodVolumes
from tproxy.tasks import Tasks

log = logging.getLogger(__name__)

BACK_OFF_SECONDS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Before the first, second ... restart; a kubelet waits ten times as long, which nobody wants to watch."""

_STEADY_SECONDS = 60.0
_FIRST_READINESS_SECONDS = 0.1
_SETTLE_SECONDS = 0.02
_RETRY_SECONDS = 1.0
_SHELL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_REAP_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a container runs: its pod's sandbox, cgroup and volumes, its node's prober, and its defaults."""

    sandbox: Sandbox
    group: Path
    prober: Callable[[Callable[[Sequence[str]], Any]], Prober]
    base_environment: Mapping[str, str]
    working_directory: str
    volumes: PodVolumes


class Container:
    """`spec` of `pod`, run again and again. `changed` is called after every change of what `status` returns."""

    def __init__(
        self,
        spec: Mapping[str, Any],
        restart_policy: str,
        grace_seconds: float,
        log_path: Path,
        lookup: Lookup,
        changed: Callable[[], None],
    ) -> None:
        self.name: str = spec["name"]
        self.process: Process | None = None
        self.ready = False
        self.restarts = 0
        self.finished = False
        self.unready_reason = ""
        self._spec = spec
        self._restart_policy = restart_policy
        self._grace_seconds = grace_seconds
        self._log_path = log_path
        self._lookup = lookup
        self._changed = changed
        self._id = ""
        self._group: Path | None = None
        self._state: Object = {"waiting": {"reason": "ContainerCreating"}}
        self._last_state: Object = {}
        self._exit_code = 0
        self._kill_reason = ""
        self._stopping = False
        self._probing = Tasks(f"lab-container-{self.name}")

    @property
    def started(self) -> bool:
        """Whether it has run at all."""
        return bool(self._id)

    def status(self) -> Object:
        """The container's entry in `status.containerStatuses`."""
        status: Object = {
            "name": self.name,
            "image": self._spec.get("image", ""),
            "imageID": "",
            "ready": self.ready,
            "started": "running" in self._state,
            "restartCount": self.restarts,
            "state": self._state,
            "lastState": self._last_state,
        }
        return status | ({"containerID": f"containerd://{self._id}"} if self._id else {})

    @property
    def succeeded(self) -> bool:
        """Whether it has ended for good, with 0."""
        return self.finished and self._exit_code == 0

    async def run(self, place: Place, pod: Object) -> None:
        """Start, and start again as the restart policy says; returns when it has ended for good."""
        clock, failures = asyncio.get_running_loop().time, 0
        while not self._stopping:
            began = clock()
            try:
                await self._run_once(place, pod)
            except (TproxyError, OSError) as error:
                self._wait("CreateContainerError", str(error))
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            if self._stopping or not self._wants_restart():
                self.finished = True
                self._changed()
                return
            failures = 0 if clock() - began > _STEADY_SECONDS else failures
            delay = BACK_OFF_SECONDS[min(failures, len(BACK_OFF_SECONDS) - 1)]
            failures += 1
            if delay:
                self._wait("CrashLoopBackOff", f"back-off {delay:g} s restarting failed container")
            await asyncio.sleep(delay or _SETTLE_SECONDS)
            if not place.sandbox.holder.running:
                return  # All of the pod has died, not only this; it will get a new sandbox.
            self.restarts += 1

    async def stop(self, grace_seconds: float) -> None:
        """End it for good: SIGTERM, then SIGKILL for all of its processes after `grace_seconds`."""
        self._stopping = True
        await self._end(grace_seconds)

    def lost(self) -> None:
        """Its sandbox has died and its processes have been killed: it will be started afresh."""
        if self.process is not None:
            self._ended("Error", 128 + signal.SIGKILL)
        self.restarts += 1
        self._changed()

    def _wants_restart(self) -> bool:
        return self._restart_policy == "Always" or (self._restart_policy == "OnFailure" and self._exit_code != 0)

    async def _run_once(self, place: Place, pod: Object) -> None:
        variables = environment(place.base_environment, self._spec, pod, self._lookup)
        arguments = limited(command_line(self._spec, variables), self._spec)
        ports = {port["name"]: port["containerPort"] for port in self._spec.get("ports") or () if port.get("name")}
        readiness, liveness = (
            probes.parse(self._spec[name], ports) if self._spec.get(name) else None
            for name in ("readinessProbe", "livenessProbe")
        )
        directory = os.path.join(place.working_directory, self._spec.get("workingDir") or "")
        identity = secrets.token_hex(32)
        group = place.group / identity
        group.mkdir(parents=True)
        with open_log(self._log_path) as output:
            # The shell that starts it would drop what is no variable of a shell.
            odd = [f"{name}={value}" for name, value in variables.items() if not _SHELL_NAME.fullmatch(name)]
            arguments = [tool("env"), *odd, *arguments] if odd else arguments
            line = place.sandbox.command(arguments, directory, partial(place.volumes.command, self._spec, variables))
            process = Process.start(line, group, variables, output.fileno())
        self._id, self._group, self.process, self._kill_reason = identity, group, process, ""
        self._state = {"running": {"startedAt": now()}}
        self.ready = readiness is None
        self._changed()
        prober = place.prober(lambda command: self._execute(place, command, directory, variables))
        if readiness is not None:
            self._probing.start(self._watch_readiness(readiness, prober), "readiness")
        if liveness is not None:
            self._probing.start(self._watch_liveness(liveness, prober), "liveness")
        try:
            code = await process.wait()
        finally:
            await self._probing.close()
        cgroup.kill(group)
        await _removed(group)
        self._exit_code = code if code >= 0 else 128 - code
        self._ended("Completed" if code == 0 else "Error", self._exit_code)
        self._changed()

    def _ended(self, reason: str, code: int) -> None:
        running = self._state.get("running", {})
        self.process, self.ready, self.unready_reason = None, False, ""
        self._state = {
            "terminated": {
                "exitCode": code,
                "reason": reason,
                "message": self._kill_reason,
                "startedAt": running.get("startedAt"),
                "finishedAt": now(),
                "containerID": f"containerd://{self._id}",
            }
        }
        self._last_state = self._state

    def _wait(self, reason: str, message: str) -> None:
        self._state = {"waiting": {"reason": reason, "message": message}}
        self.ready = False
        self._changed()

    async def _end(self, grace_seconds: float) -> None:
        process, group = self.process, self._group
        if process is None or group is None:
            return
        process.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_seconds):
                await process.wait()
        except TimeoutError:
            cgroup.kill(group)
            await process.wait()

    async def _execute(self, place: Place, command: Sequence[str], directory: str, variables: Mapping[str, str]) -> int:
        if self._group is None or self.process is None:
            raise OSError("the container does not run")
        process = Process.start(enter(self.process.pid, command, directory), self._group, variables)
        try:
            return await process.wait()
        finally:
            process.signal(signal.SIGKILL)

    async def _watch_readiness(self, probe: Probe, prober: Prober) -> None:
        threshold = Threshold(False, probe.successes, probe.failures)
        await asyncio.sleep(probe.initial_delay)
        pause = _FIRST_READINESS_SECONDS
        while True:
            failure = await prober.failure(probe)
            changed = threshold.observe(not failure)
            reason = f"Readiness probe failed: {failure}" if failure else ""
            if changed or (not threshold.healthy and reason != self.unready_reason):
                self.ready, self.unready_reason = threshold.healthy, reason
                self._changed()
            # A kubelet keeps the period here too; a stage need not let people wait for a server that has just started.
            pause = probe.period if threshold.healthy else min(pause * 1.5, probe.period)
            await asyncio.sleep(pause)

    async def _watch_liveness(self, probe: Probe, prober: Prober) -> None:
        threshold = Threshold(True, probe.successes, probe.failures)
        await asyncio.sleep(probe.initial_delay)
        while True:
            failure = await prober.failure(probe)
            if threshold.observe(not failure) and not threshold.healthy:
                self._kill_reason = f"Liveness probe failed: {failure}"
                log.info("container %s is restarted: %s", self.name, self._kill_reason)
                await self._end(self._grace_seconds)
                return
            await asyncio.sleep(probe.period)


async def _removed(group: Path) -> None:
    """Remove a cgroup once what was killed in it has gone."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _REAP_SECONDS
    while True:
        try:
            os.rmdir(group)
        except FileNotFoundError:
            return
        except OSError:
            if loop.time() > deadline:
                return  # The pod's end removes it.
            await asyncio.sleep(0.002)
        else:
            return
