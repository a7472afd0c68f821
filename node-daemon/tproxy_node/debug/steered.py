"""What steering decided, as a trace shows it.

Of what the relay got, from its records, connection by connection; of what the kernel left to the app, from the counters
of its program.

    {"event": "steer", "namespace": "shop", "pod": "web-1", "local": "10.244.1.7:8080", "remote": "10.244.2.9:41234",
     "verdict": "laptop", "reason": "intercept", "intercept": "shop/web"}
    {"event": "steer", "namespace": "shop", "pod": "web-1", "local": ":8080", "verdict": "lease_expired", "count": 3}
"""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tproxy_node.counts import PortCounts
from tproxy_node.flows import Event, Flow, Flows
from tproxy_node.plan import PodRef

LEFT = ("lease_expired", "no_listener", "passed")
"""Verdicts of the kernel's program by which the app gets a connection that the relay never hears of."""

Json = dict[str, Any]
_Key = tuple[str, int, str]


class Steered:
    """What has happened since the last look, of the pods whose UIDs are wanted and of `port` (0: all of them).

    `total` counts all of it, `lost` what came faster than it was looked at.
    """

    def __init__(self, flows: Flows, counts: Callable[[], Iterable[PortCounts]], port: int) -> None:
        self._follower = flows.follow()
        self._counts = counts
        self._port = port
        self._seen: dict[_Key, dict[str, int]] | None = None
        self.total = 0

    @property
    def lost(self) -> int:
        """See above; of all pods together."""
        return self._follower.lost

    def close(self) -> None:
        """No more of it. Idempotent."""
        self._follower.close()

    def look(self, wanted: Callable[[str], bool]) -> Iterator[Json]:
        """One event for each connection and request, and for each verdict of the kernel's."""
        while (one := self._follower.take()) is not None:
            what, event = one
            flow = event if isinstance(event, Flow) else event.flow
            if what != "ended" and wanted(flow.pod.uid) and self._port in (0, flow.destination.port):
                self.total += 1
                yield self._decided(flow, event)
        before, self._seen = self._seen, {}
        for counted in self._counts():
            if wanted(counted.pod.uid) and self._port in (0, counted.port):
                yield from self._left(counted, before)

    def _decided(self, flow: Flow, event: Event) -> Json:
        if isinstance(event, Flow):
            at, said = flow.began, {"verdict": flow.decision, "reason": flow.reason, "intercept": flow.name}
        else:
            intercept = event.choice.name if event.choice is not None else ""
            at, said = event.at, {"verdict": "request", "reason": event.outcome.value, "intercept": intercept}
        ends = {"local": str(flow.destination), "remote": str(flow.client)}
        return _event(flow.pod, at, flow.protocol) | ends | said

    def _left(self, counted: PortCounts, seen: dict[_Key, dict[str, int]] | None) -> Iterator[Json]:
        key = (counted.pod.uid, counted.port, counted.protocol)
        now = {verdict: int(getattr(counted.kernel, verdict)) for verdict in LEFT}
        # What is there at the first look has been before; what is new later has begun in between.
        before = now if seen is None else seen.get(key, {})
        if self._seen is not None:
            self._seen[key] = now
        for verdict, count in now.items():
            if (more := count - before.get(verdict, 0)) > 0:
                self.total += more
                event = _event(counted.pod, time.monotonic(), counted.protocol)
                yield event | {"local": f":{counted.port}", "verdict": verdict, "count": more}


def _event(pod: PodRef, at: float, protocol: str) -> Json:
    return {
        "event": "steer",
        "time": round(time.time() - time.monotonic() + at, 6),
        "namespace": pod.namespace,
        "pod": pod.name,
        "protocol": protocol,
    }
