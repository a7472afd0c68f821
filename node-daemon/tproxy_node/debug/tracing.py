"""`trace`: what the kernel does with sockets and packets of pods, as it happens, by a process made for it.

{"watching": 3}      namespaces, at the beginning and when pods come and go
{"event": …}         see docs/reference/tracing.md
{"summary": …}       twice a second: everything so far
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tproxy.errors import ClusterError, InvalidError, TproxyError
from tproxy.model.pod import Pod
from tproxy.model.tracing import EVENTS, MAX_RATE, MAX_SECONDS, RATE, SECONDS
from tproxy_node.child import Child
from tproxy_node.debug.questions import Question, Questions, Reply
from tproxy_node.debug.steered import Steered
from tproxy_node.debug.subjects import Subjects
from tproxy_node.places import Place
from tproxy_node.relay import Relay

log = logging.getLogger(__name__)

MODULE = "tproxy_node.trace"
MAX_TRACES = 2
"""At a time, whoever asks: each costs memory and, for each event, time of the whole node."""

MEMORY = 256 << 20
"""Bytes of memory of its own that such a process may have; measured: 50 MiB, and 90 MiB of shared libraries."""

FOLLOW_SECONDS = 2.0
"""How often to look for pods that have come and gone."""

LOOK_SECONDS = 0.5
READY_SECONDS = 30.0
_AT_ONCE = 100  # namespaces in one message
_BUSY = "too many traces run on this node"

Json = dict[str, Any]
_Intercepted = Mapping[tuple[str, str], frozenset[int]]
"""TCP ports that are intercepted now, by namespace and name of the pod."""


class Traces:
    """Answers `trace`."""

    def __init__(self, subjects: Subjects, relay: Relay) -> None:
        self._subjects = subjects
        self._relay = relay
        self._running = 0

    def join(self, questions: Questions) -> None:
        """Answer from now on."""
        questions.add("trace", self.answer, debugger=True)

    async def answer(self, question: Question, reply: Reply) -> None:
        """See `Answer`."""
        events = question.texts("events") or EVENTS
        if unknown := [event for event in events if event not in EVENTS]:
            raise InvalidError(f"there is no event {unknown[0]!r} to trace; there are {', '.join(EVENTS)}")
        port = question.number("port", 0, 65535, 0)
        rate = question.number("rate", 1, MAX_RATE, RATE)
        seconds = question.number("seconds", 1, MAX_SECONDS, SECONDS)
        pod = question.text("pod")
        if pod:
            (await self._subjects.one(pod)).netns.close()  # what is wrong with it is told before anything is started
        if self._running >= MAX_TRACES:
            raise TproxyError(_BUSY, f"end one of them, or wait: no more than {MAX_TRACES} run at a time")
        self._running += 1
        try:
            await reply.line({"preparing": True})
            await self._run(_Asked(pod, events, port, rate), seconds, reply)
        finally:
            self._running -= 1

    def _intercepted(self) -> "_Intercepted":
        return {(one.pod.namespace, one.pod.name): frozenset(one.routes) for one in self._relay.pods}

    async def _run(self, asked: "_Asked", seconds: float, reply: Reply) -> None:
        try:
            child = await Child.start(MODULE)
        except OSError as error:
            raise ClusterError(f"no process to trace with: {error.strerror or error}") from error
        lines = _Lines(child)
        try:
            child.tell({"events": asked.events, "port": asked.port, "rate": asked.rate, "memory": MEMORY})
            await lines.ready()
            with contextlib.ExitStack() as closing:
                steered = None
                if "steer" in asked.events:
                    steered = Steered(self._relay.flows, self._relay.counts, asked.port)
                    closing.callback(steered.close)
                trace = _Trace(asked, child, self._subjects, steered, self._intercepted)
                await trace.follow()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await trace.run(lines, reply)
        except OSError as error:
            raise lines.broken("it does not listen any more") from error
        finally:
            complaints = await child.close()
            if complaints:
                log.warning("tracing complained: %s", complaints[-2000:], extra={"rate_key": "trace"})


class _Asked:
    def __init__(self, pod: str, events: Sequence[str], port: int, rate: int) -> None:
        self.pod = pod
        self.events = list(events)
        self.port = port
        self.rate = rate


class _Lines:
    """What the process says."""

    def __init__(self, child: Child) -> None:
        self._child = child

    async def ready(self) -> None:
        """Until it traces. Raises what it lacks as a `ClusterError`."""
        try:
            async with asyncio.timeout(READY_SECONDS):
                await self.next()
        except TimeoutError:
            raise self.broken(f"it was not ready within {READY_SECONDS:g} s") from None

    async def next(self) -> Json:
        """The next line. Raises what it says of itself, or that it has ended, as a `ClusterError`."""
        try:
            line = await self._child.line()
            found: Json = json.loads(line) if line else {}
        except ValueError as error:
            raise self.broken("it says something else than lines") from error
        if not found:
            raise self.broken("it has ended: memory may have been too short")
        if "error" in found:
            raise ClusterError(found["error"], found["hint"])
        return found

    @staticmethod
    def broken(why: str) -> ClusterError:
        """The process is of no use."""
        return ClusterError(f"the process that traces failed: {why}", "the node daemon's log says more")


class _Trace:
    """One that runs."""

    def __init__(
        self,
        asked: _Asked,
        child: Child,
        subjects: Subjects,
        steered: Steered | None,
        intercepted: Callable[[], _Intercepted],
    ) -> None:
        self._asked = asked
        self._child = child
        self._subjects = subjects
        self._steered = steered
        self._intercepted = intercepted
        self._ports = intercepted()
        self._watched: dict[str, tuple[Pod, int]] = {}  # by UID; the namespace's inode

    async def follow(self) -> None:
        """Have the process watch the pods that there are now. Raises OSError."""
        named = self._asked.pod
        pods = {pod.uid: pod for pod in self._subjects.here() if named in ("", f"{pod.namespace}/{pod.name}")}
        gone = [
            uid for uid in self._watched if uid not in pods or self._watched[uid][0].addresses != pods[uid].addresses
        ]
        inodes = [self._watched.pop(uid)[1] for uid in gone]
        if inodes:
            self._child.tell({"remove": inodes})
        places = await self._subjects.places([pod for uid, pod in pods.items() if uid not in self._watched])
        try:
            for at in range(0, len(places), _AT_ONCE):
                some = places[at : at + _AT_ONCE]
                self._child.tell({"add": [_named(place) for place in some]}, [one.netns.fileno() for one in some])
            for place in places:
                self._watched[place.pod.uid] = (place.pod, place.netns.id.inode)
        finally:
            for place in places:
                place.netns.close()

    async def run(self, lines: _Lines, reply: Reply) -> None:
        """Pass on what it says, and what steering does meanwhile, until cancelled."""
        loop = asyncio.get_running_loop()
        followed = looked = loop.time()
        while True:
            line = await lines.next()
            if "summary" in line and self._steered is not None:
                line["summary"]["events"]["steer"] = self._steered.total + self._steered.lost
                line["summary"]["lost"] += self._steered.lost
            if line.get("event") == "state" and line["to"] == "SYN_RECV":
                line |= self._passed_by(line)
            await reply.line(line)
            # Summaries come twice a second: that is often enough to look at the rest.
            now = loop.time()
            if "summary" in line:
                self._ports = self._intercepted()
            if self._steered is not None and now - looked >= LOOK_SECONDS:
                looked = now
                for event in self._steered.look(self._watched.__contains__):
                    await reply.line(event)
            if now - followed >= FOLLOW_SECONDS:
                followed = now
                await self.follow()

    def _passed_by(self, line: Json) -> Json:
        """Of a new connection to a port that is not intercepted: the ports of its pod that are."""
        ports = self._ports.get((line["namespace"], line["pod"]), frozenset())
        port = int(line["local"].rpartition(":")[2])
        return {"intercepted": sorted(ports)} if ports and port not in ports else {}


def _named(place: Place) -> Json:
    return {"inode": place.netns.id.inode, "namespace": place.pod.namespace, "pod": place.pod.name}
