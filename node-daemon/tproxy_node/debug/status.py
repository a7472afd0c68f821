"""`status`: what is steered on this node, by whom, how it is, and what differs from what is asked for.

One line for the node, one for each tunnel, one for each pod that is steered or should be. Who may not know everything
is told of what is their own.
"""

import asyncio
import os
import platform
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from tproxy.model.intercept import Intercept, InterceptPort
from tproxy.model.session import Session
from tproxy.steer.port import SteeredPort
from tproxy.tunnel.endpoint import Endpoint
from tproxy.version import VERSION
from tproxy_node.debug import seen
from tproxy_node.debug.questions import Asker, Question, Questions, Reply
from tproxy_node.desired import Desired, PodRoutes, Route
from tproxy_node.lease import Lease
from tproxy_node.mirror import Mirror
from tproxy_node.options import Options
from tproxy_node.reconcile import Reconciler, Steered
from tproxy_node.relay import Relay
from tproxy_node.sessions import Sessions

SO_COOKIE = 57

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Here:
    """What the answers are made of. `backend` is the name of the way of steering."""

    options: Options
    backend: str
    mirror: Mirror
    sessions: Sessions
    reconciler: Reconciler
    relay: Relay
    lease: Lease


class Status:
    """Answers it."""

    def __init__(self, here: Here) -> None:
        self._here = here
        self._began = time.monotonic()

    def join(self, questions: Questions) -> None:
        """Answer from now on."""
        questions.add("status", self.answer)

    async def answer(self, question: Question, reply: Reply) -> None:
        """See `Answer`."""
        who = question.who
        if who.everything:
            await reply.line({"node": self._node()})
        for tunnel in self._tunnels(who):
            await reply.line({"tunnel": tunnel})
        wanted = self._here.reconciler.wanted()
        steered = self._here.reconciler.pods
        for uid in sorted({*steered, *wanted.routes}, key=lambda uid: (uid not in steered, uid)):
            pod = self._pod(uid, steered.get(uid), wanted, who)
            if pod is not None:
                await reply.line({"pod": pod})
            await asyncio.sleep(0)

    def _node(self) -> Json:
        here = self._here
        relay = here.relay
        return {
            "name": here.options.node,
            "version": VERSION,
            "pid": os.getpid(),
            "upSeconds": round(time.monotonic() - self._began, 3),
            "backend": here.backend,
            "kernel": platform.release(),
            "python": platform.python_version(),
            "waitsFor": here.mirror.missing,
            "pods": here.reconciler.steered,
            "connections": {place: relay.active[place] for place in ("laptop", "app")},
            "full": relay.full,
            "limits": _limits(here.options),
            "leaseWorstDelaySeconds": round(here.lease.worst_delay, 3),
        }

    def _tunnels(self, who: Asker) -> Iterator[Json]:
        for session, streams in self._here.sessions.by_session():
            if who.everything or session.uid == who.session:
                owner = {
                    "session": f"{session.namespace}/{session.name}",
                    "user": session.user,
                    "host": session.host,
                    "connectionsOfSession": self._here.relay.by_session[session.uid],
                }
                for stream in streams:
                    yield owner | tunnel(stream)
                lost = self._here.sessions.lost(session.uid)
                if not streams and lost is not None:
                    yield owner | {"lost": lost.reason, "lostSeconds": round(time.monotonic() - lost.at, 3)}

    def _pod(self, uid: str, steered: Steered | None, wanted: Desired, who: Asker) -> Json | None:
        here = self._here
        asked = wanted.routes.get(uid, {})
        now: PodRoutes = steered.routes if steered is not None else {}
        ports = sorted({*asked, *now})
        if not who.everything:
            ports = [
                port for port in ports if _is_for(who.session, asked.get(port)) or _is_for(who.session, now.get(port))
            ]
            if not ports:
                return None
        shown: Json = {"ports": [self._port(port, now.get(port), asked.get(port)) for port in ports]}
        if steered is None:
            failure = here.reconciler.failures.get(uid)
            pod = next((pod for pod in here.mirror.pods if pod.uid == uid), None)
            name = f"{pod.namespace}/{pod.name}" if pod is not None else uid
            why = f"not steered: {failure.message}" if failure is not None else "not steered yet"
            return shown | {"pod": name, "uid": uid, "steered": False, "differences": [why]}
        shown |= {
            "pod": str(steered.relay.pod),
            "uid": uid,
            "steered": True,
            "since": _time(steered.since),
            "showsClients": steered.relay.shows_clients,
        }
        try:
            found = seen.look(steered.place.netns)
        except OSError as error:
            return shown | {"differences": [f"the pod's network cannot be looked at: {error.strerror or error}"]}
        cookies = own_cookies(steered)
        for port, described in zip(ports, shown["ports"], strict=True):
            counters = found.counters(steered_port(port))
            described["kernel"] = asdict(counters) if counters is not None else None
            if port.protocol == "TCP":
                described["app"] = [
                    {"address": one.host, "queue": one.queue, "limit": one.limit}
                    for one in found.apps(port.port, cookies)
                ]
        expected = {steered_port(port): str(route) for port, route in asked.items()}
        differences = [*seen.differences(found, expected, cookies)]
        if steered.broken:
            differences.append(steered.broken)
        return shown | {
            "netns": found.netns,
            "attachments": [
                {
                    "backend": one.backend,
                    "name": one.name,
                    "protocol": one.protocol,
                    "attached": one.attached,
                    "leaseSeconds": one.lease,
                }
                for one in found.held
            ],
            "listeners": [
                {"address": f"{one.host}:{one.port}", "queue": one.queue, "limit": one.limit}
                for one in found.ours(cookies)
            ],
            "acceptQueueOverflows": found.overflows,
            "differences": differences,
        }

    def _port(self, port: InterceptPort, now: Route | None, asked: Route | None) -> Json:
        route = now or asked
        return {
            "port": port.port,
            "protocol": port.protocol,
            "owners": owners(route, self._here),
            "speaks": route.speaks if route is not None else "",
        }


def owners(route: Route | None, here: Here) -> list[Json]:
    """Whose intercepts make a port go there."""
    wanted = route.intercepts if route is not None else frozenset()
    return [_owner(one, here.sessions.of(one.session_uid)) for one in here.mirror.intercepts if one.uid in wanted]


def _owner(intercept: Intercept, session: Session | None) -> Json:
    return {
        "intercept": f"{intercept.namespace}/{intercept.name}",
        "user": session.user if session is not None else "",
        "host": session.host if session is not None else "",
        "since": intercept.created.isoformat(timespec="seconds") if intercept.created is not None else None,
        "match": str(intercept.match) if intercept.match is not None else "",
    }


def _is_for(session: str, route: Route | None) -> bool:
    return route is not None and session in route.sessions


def steered_port(port: InterceptPort) -> SteeredPort:
    """The same for the kernel."""
    return SteeredPort(port.port, port.protocol)


def own_cookies(steered: Steered) -> frozenset[int]:
    """Of the relay's listeners in a pod."""
    found = set()
    for listener in steered.attachment.listeners:
        try:
            found.add(int.from_bytes(listener.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8), "little"))
        except OSError:
            continue  # it closes this very moment
    return frozenset(found)


def tunnel(stream: Endpoint) -> Json:
    """One stream's figures."""
    stats, credits = stream.stats, stream.credits
    return {
        "connections": stats.connections,
        "rttSeconds": round(stats.rtt, 6),
        "bytesReceived": stats.bytes_in,
        "bytesSent": stats.bytes_out,
        "bytesQueued": stats.queued,
        "creditGiven": credits.given,
        "creditHeld": credits.held,
        "waitingForCredit": credits.waiting,
        "oldestSeconds": round(stats.oldest, 3),
        "quietSeconds": round(stats.quiet, 3),
        "software": stream.peer_software,
    }


def _limits(options: Options) -> Mapping[str, int]:
    limits, dials = options.limits, options.dial_limits
    return {
        "sessionConnections": limits.per_session,
        "nodeConnections": limits.total,
        "sessionDials": dials.per_session,
        "nodeDials": dials.total,
    }


def _time(monotonic: float) -> str:
    seconds = time.time() - (time.monotonic() - monotonic)
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
