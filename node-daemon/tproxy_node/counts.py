"""What became of new connections to intercepted ports, pod by pod and port by port.

Two places decide: the kernel, which steers to the relay or leaves a connection to the app, and the relay, which passes
some of what it got on to the app after all. Both count; here the two are put side by side.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass

from tproxy.steer.port import Counters
from tproxy_node.plan import PodRef

REASONS = ("left", "limit", "no_tunnel", "probe")
"""Why the relay passed a connection on to the app: as in `tproxy_connections_total`, without `app_`."""

MAX_PORTS = 512
"""Ports of pods that are told apart in the metrics; the rest is in the node's totals only."""

Verdicts = Counter[str]
"""Connections, and datagrams, by what the kernel did with them: the fields of `Counters`."""


@dataclass(frozen=True, slots=True)
class PortCounts:
    """Of one port of a pod since it was attached. `to_app` are connections that the relay passed on, by reason."""

    pod: PodRef
    port: int
    protocol: str
    kernel: Counters
    to_app: Mapping[str, int]


def verdicts(counts: Iterable[PortCounts]) -> Verdicts:
    """All of them together."""
    totals: Verdicts = Counter()
    for one in counts:
        totals.update(asdict(one.kernel))
    return totals


def shown(counts: Iterable[PortCounts]) -> Iterator[PortCounts]:
    """Those that get metrics of their own."""
    order = sorted(counts, key=lambda one: (one.pod, one.port, one.protocol))
    return itertools.islice(order, MAX_PORTS)
