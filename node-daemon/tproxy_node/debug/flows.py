"""`flows`: connections that are open, those that ended last, and with `follow` whatever happens from then on.

    {"flow": {...}}      a connection, open or ended
    {"request": {...}}   one request on a port with personal intercepts
    {"untouched": {...}} an intercepted port that nothing has come to: it may be the wrong one
    {"staying": {...}}   connections that the app has had since before its intercept, which nobody looks into
    {"lost": N}          events that the follower was too slow for

Who may not know everything is told of their own intercepts' connections and requests only.
"""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from tproxy.errors import InvalidError
from tproxy.model.intercept import InterceptPort
from tproxy_node.debug.questions import Asker, Question, Questions, Reply
from tproxy_node.debug.services import elsewhere, targets
from tproxy_node.debug.status import Here, owners
from tproxy_node.debug.waiting import InTunnel, waits_for
from tproxy_node.flows import KEPT, Event, Flow, Request

RECENT = 200
"""Ended connections, and requests, that are shown unless more are asked for."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Filter:
    who: Asker
    pod: str  # namespace/name
    intercept: str  # namespace/name

    def wants(self, event: Event) -> bool:
        """Whether it is asked for, and the asker's business."""
        flow = event if isinstance(event, Flow) else event.flow
        if self.pod and str(flow.pod) != self.pod:
            return False
        if isinstance(event, Request):
            choice = event.choice
            session, name = (choice.session, choice.name) if choice is not None else ("", "")
        else:
            session, name = flow.session, flow.name
        if self.intercept and name != self.intercept:
            return False
        return self.who.everything or session == self.who.session != ""


class FlowsAnswer:
    """Answers it."""

    def __init__(self, here: Here) -> None:
        self._here = here
        self._flows = here.relay.flows
        self._sessions = here.sessions

    def join(self, questions: Questions) -> None:
        """Answer from now on."""
        questions.add("flows", self.answer)

    async def answer(self, question: Question, reply: Reply) -> None:
        """See `Answer`."""
        wanted = _Filter(question.who, question.text("pod"), question.text("intercept"))
        for name in (wanted.pod, wanted.intercept):
            if (name and not all(part for part in name.split("/", 1))) or name.count("/") > 1:
                raise InvalidError(f"{name!r} is not NAMESPACE/NAME")
        recent = question.number("recent", 0, KEPT, RECENT)
        if not question.flag("follow"):
            await self._now(wanted, recent, reply)
            return
        follower = self._flows.follow()
        try:
            await self._now(wanted, recent, reply)
            told = 0
            while True:
                what, event = await follower.next()
                if follower.lost > told:
                    await reply.line({"lost": follower.lost - told})
                    told = follower.lost
                if wanted.wants(event):
                    await reply.line(self._event(event) | {"what": what})
        finally:
            follower.close()

    async def _now(self, wanted: _Filter, recent: int, reply: Reply) -> None:
        """What has been, then what is. Long lists are written piece by piece: the loop has others to serve."""
        events: list[Event] = [*self._flows.recent, *self._flows.requests]
        events = [event for event in events if wanted.wants(event)]
        events.sort(key=lambda event: event.ended if isinstance(event, Flow) else event.at)
        live = sorted((flow for flow in self._flows.live if wanted.wants(flow)), key=lambda flow: flow.number)
        for number, event in enumerate([*(events[-recent:] if recent else ()), *live]):
            await reply.line(self._event(event))
            if number % 64 == 63:
                await asyncio.sleep(0)
        for untouched in self._untouched(wanted):
            await reply.line({"untouched": untouched})
        if wanted.who.everything and not wanted.intercept:
            for staying in self._staying(wanted.pod):
                await reply.line({"staying": staying})

    def _untouched(self, wanted: _Filter) -> Iterator[Json]:
        """Of the pods that are steered now, with what Services send to instead."""
        here = self._here
        touched = {(flow.pod.uid, flow.destination.port, flow.protocol) for flow in self._flows.live}
        for one in here.relay.counts():
            kernel, steered = one.kernel, here.reconciler.pods.get(one.pod.uid)
            came = kernel.steered + kernel.lease_expired + kernel.no_listener + kernel.passed
            if steered is None or came or (one.pod.uid, one.port, one.protocol) in touched:
                continue
            route = steered.routes.get(InterceptPort(one.port, one.protocol))
            if route is None or wanted.pod not in ("", str(one.pod)):
                continue
            whose = owners(route, here)
            if wanted.intercept and all(each["intercept"] != wanted.intercept for each in whose):
                continue
            if wanted.who.everything or wanted.who.session in route.sessions:
                sent = list(targets(here.mirror.services, steered.place.pod))
                yield {
                    "pod": str(one.pod),
                    "port": one.port,
                    "protocol": one.protocol,
                    "owners": whose,
                    "services": [name for name, target in sent if target == one.port],
                    "elsewhere": elsewhere(sent, one.port),
                }

    def _staying(self, wanted: str) -> Iterator[Json]:
        for steered in self._here.reconciler.pods.values():
            relay = steered.relay
            if relay.pool is not None and wanted in ("", str(relay.pod)):
                for port, one in relay.pool.staying.items():
                    if one.count:
                        yield {"pod": str(relay.pod), "port": port, "connections": one.count, "why": one.why}

    def _event(self, event: Event) -> Json:
        return {"flow": self._flow(event)} if isinstance(event, Flow) else {"request": self._request(event)}

    def _flow(self, flow: Flow) -> Json:
        carried = flow.measure()
        session = self._sessions.of(flow.session)
        shown: Json = {
            "number": flow.number,
            "pod": str(flow.pod),
            "protocol": flow.protocol,
            "client": str(flow.client),
            "destination": str(flow.destination),
            "decision": flow.decision,
            "reason": flow.reason,
            "intercept": flow.name,
            "user": session.user if session is not None else "",
            "state": "ended" if flow.ended else "open",
            "began": _time(flow.began),
            "seconds": round((flow.ended or time.monotonic()) - flow.began, 6),
            "received": carried.received if carried is not None else None,
            "sent": carried.sent if carried is not None else None,
            "end": flow.end,
        }
        if carried is not None:
            shown |= {"rttSeconds": carried.rtt, "retransmitted": carried.retransmitted}
        tunnel = None
        if flow.conn is not None and flow.stream is not None:
            tunnel = InTunnel(flow.conn.opened, flow.conn.queued, flow.conn.credit, flow.stream.stats.quiet)
            shown |= {
                "tunnelOpened": tunnel.opened,
                "tunnelQueued": tunnel.queued,
                "tunnelCredit": tunnel.credit,
                "tunnelQuietSeconds": round(tunnel.quiet, 3),
            }
        waiting = None if flow.ended else waits_for(shown["seconds"], carried, tunnel)
        if waiting is not None:
            shown["waits"] = {"for": waiting.what, "seconds": waiting.seconds and round(waiting.seconds, 3)}
        return shown

    def _request(self, request: Request) -> Json:
        choice = request.choice
        session = self._sessions.of(choice.session) if choice is not None else None
        return {
            "flow": request.flow.number,
            "pod": str(request.flow.pod),
            "client": str(request.flow.client),
            "destination": str(request.flow.destination),
            "outcome": request.outcome.value,
            "intercept": choice.name if choice is not None else "",
            "user": session.user if session is not None else "",
            "status": request.status,
            "at": _time(request.at),
            "seconds": round(request.seconds, 6),
        }


def _time(monotonic: float) -> str:
    """The wall clock's, of now: what it was then nobody knows."""
    return (datetime.now(UTC) - timedelta(seconds=time.monotonic() - monotonic)).isoformat(timespec="milliseconds")
