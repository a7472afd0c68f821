"""What steering decided, as a trace shows it: from the kernel program's counters, port by port.

{"event": "steer", "namespace": "shop", "pod": "web-1", "local": ":8080", "verdict": "lease_expired", "count": 3}
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import Any

from tproxy_node.counts import PortCounts

Json = dict[str, Any]
_Key = tuple[str, int, str]


class Steered:
    """What has changed since the last look, of the pods whose UIDs are `wanted` and of `port` (0: all of them)."""

    def __init__(self, counts: Callable[[], Iterable[PortCounts]], port: int) -> None:
        self._counts = counts
        self._port = port
        self._seen: dict[_Key, dict[str, int]] | None = None
        self.total = 0

    def look(self, wanted: Callable[[str], bool]) -> Iterator[Json]:
        """One event for each verdict that has been given in between."""
        before, now = self._seen, {}
        for one in self._counts():
            if wanted(one.pod.uid) and self._port in (0, one.port):
                now[one.pod.uid, one.port, one.protocol] = verdicts = asdict(one.kernel) | _prefixed(one)
                # What is there at the first look has been before; what is new later has begun in between.
                known = verdicts if before is None else before.get((one.pod.uid, one.port, one.protocol), {})
                for verdict, count in verdicts.items():
                    if (more := count - known.get(verdict, 0)) > 0:
                        self.total += more
                        yield self._event(one, verdict, more)
        self._seen = now

    @staticmethod
    def _event(one: PortCounts, verdict: str, count: int) -> Json:
        return {
            "event": "steer",
            "time": round(time.time(), 6),
            "namespace": one.pod.namespace,
            "pod": one.pod.name,
            "local": f":{one.port}",
            "protocol": one.protocol,
            "verdict": verdict,
            "count": count,
        }


def _prefixed(one: PortCounts) -> dict[str, int]:
    return {f"app_{reason}": count for reason, count in one.to_app.items()}
