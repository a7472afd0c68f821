"""`status`: what is steered on this node, by whom, and how it is.

One line for the node, one for each tunnel, one for each steered pod. Who may not know everything is told of what is
their own.
"""

import os
import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tproxy.tunnel.endpoint import Endpoint
from tproxy.version import VERSION
from tproxy_node.debug.questions import Asker, Question, Questions, Reply
from tproxy_node.lease import Lease
from tproxy_node.options import Options
from tproxy_node.reconcile import Reconciler
from tproxy_node.relay import Relay
from tproxy_node.sessions import Sessions

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Here:
    """What the answers are made of. `backend` is the name of the way of steering."""

    options: Options
    backend: str
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
            "pods": here.reconciler.steered,
            "connections": dict(relay.active),
            "full": relay.full,
            "limits": {**asdict(relay.limits), **asdict(here.options.dial_limits)},
            "leaseWorstDelaySeconds": round(here.lease.worst_delay, 3),
        }

    def _tunnels(self, who: Asker) -> Iterator[Json]:
        for session, streams in self._here.sessions.by_session():
            if who.everything or session.uid == who.session:
                for stream in streams:
                    yield {
                        "session": f"{session.namespace}/{session.name}",
                        "user": session.user,
                        "host": session.host,
                        **tunnel(stream),
                    }


def tunnel(stream: Endpoint) -> Mapping[str, Any]:
    """One stream's figures."""
    stats = stream.stats
    return {
        "connections": stats.connections,
        "rttSeconds": round(stats.rtt, 6),
        "bytesReceived": stats.bytes_in,
        "bytesSent": stats.bytes_out,
        "bytesQueued": stats.queued,
        "oldestSeconds": round(stats.oldest, 3),
        "quietSeconds": round(stats.quiet, 3),
        "software": stream.peer_software,
    }
