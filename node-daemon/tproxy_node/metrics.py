"""Prometheus metrics, read from the daemon's own counters when somebody asks.

Label values come from fixed sets; nothing is labelled by intercept, session or user, of which there is no end. Pods
have series of their own while they are steered, and no more of them than `counts.MAX_PORTS` allows.
"""

import itertools
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from tproxy.model.figures import BUCKETS, Outcome, Timed
from tproxy.version import VERSION
from tproxy_node import counts
from tproxy_node.counts import PortCounts
from tproxy_node.dial.dialling import PROTOCOLS, Dialling
from tproxy_node.lease import Lease
from tproxy_node.pool import Pools
from tproxy_node.reconcile import Reconciler
from tproxy_node.relay import Relay
from tproxy_node.sessions import Sessions

CONTENT_TYPE = CONTENT_TYPE_LATEST

OUTCOMES = ("laptop", "udp", "personal", "app_left", "app_limit", "app_no_tunnel", "app_probe")
DATAGRAMS = ("received", "answered", "dropped")
PLACES = ("laptop", "app")
POOLED = ("taken", "busy", "lost", "reset")
VERDICTS = ("steered", "own", "lease_expired", "no_listener", "passed")


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the figures are. `refused` says how many streams were refused, `backend` is the steering backend's name."""

    sessions: Sessions
    relay: Relay
    pools: Pools
    reconciler: Reconciler
    lease: Lease
    dialling: Dialling
    refused: Callable[[], int]
    backend: str


class Metrics:
    """Renders everything on demand."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def render(self) -> bytes:
        """The text of `/metrics`."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Called by the registry."""
        sources = self._sources
        yield _gauge(
            "tproxy_build_info",
            "What runs here.",
            {(VERSION, platform.python_version(), sources.backend): 1},
            ("version", "python", "backend"),
        )
        yield _gauge("tproxy_tunnels", "Open streams to laptops.", {(): len(sources.sessions.streams())})
        received, sent = sources.sessions.carried()
        yield _counter(
            "tproxy_tunnel_bytes",
            "Bytes carried by streams.",
            {("received",): received, ("sent",): sent},
            ("direction",),
        )
        yield _counter("tproxy_tunnels_refused", "Streams refused before WELCOME.", {(): sources.refused()})
        relay = sources.relay
        yield _counter(
            "tproxy_connections",
            "Connections taken over, by where they went and why.",
            {(outcome,): relay.opened[outcome] for outcome in OUTCOMES},
            ("outcome",),
        )
        yield _gauge(
            "tproxy_connections_active",
            "Connections open now.",
            {(place,): relay.active[place] for place in PLACES},
            ("place",),
        )
        yield _counter(
            "tproxy_connections_reset",
            "Connections reset towards the client, by reason.",
            {(reason,): count for reason, count in sorted(relay.resets.items())},
            ("reason",),
        )
        yield _requests(relay.tally.totals())
        dialling = sources.dialling
        yield _counter(
            "tproxy_dials",
            "What laptops dialled, by protocol and outcome.",
            {labels: count for labels, count in sorted(dialling.opened.items())},
            ("protocol", "outcome"),
        )
        yield _gauge(
            "tproxy_dials_active",
            "Dialled connections and flows open now.",
            {(protocol,): dialling.active[protocol] for protocol in PROTOCOLS},
            ("protocol",),
        )
        yield _counter(
            "tproxy_datagrams",
            "Datagrams of intercepted UDP ports.",
            {(what,): relay.datagrams[what] for what in DATAGRAMS},
            ("what",),
        )
        yield _gauge("tproxy_full", "1 while the limit of connections is reached.", {(): int(relay.full)})
        verdicts = relay.verdicts()
        yield _counter(
            "tproxy_kernel_lookups",
            "New connections to intercepted ports, by what the kernel program did.",
            {(verdict,): verdicts[verdict] for verdict in VERDICTS},
            ("verdict",),
        )
        yield from _ports(list(counts.shown(relay.counts())))
        yield _counter(
            "tproxy_pool_connections",
            "Connections that apps had before their intercepts, by what became of them.",
            {(outcome,): sources.pools.results[outcome] for outcome in POOLED},
            ("outcome",),
        )
        yield _gauge("tproxy_pods_steered", "Pods steered now.", {(): sources.reconciler.steered})
        yield _gauge(
            "tproxy_pods_shown_clients",
            "Steered pods whose apps see their clients also on what passes through here.",
            {(): sum(pod.shows_clients for pod in relay.pods)},
        )
        yield _counter("tproxy_reconcile_rounds", "Looks at everything.", {(): sources.reconciler.rounds})
        yield _counter(
            "tproxy_reconcile_errors",
            "Steps that failed.",
            {(op,): count for op, count in sources.reconciler.errors.items()},
            ("op",),
        )
        yield _gauge(
            "tproxy_lease_worst_delay_seconds",
            "By how much a renewal of the steering lease was late, at most.",
            {(): sources.lease.worst_delay},
        )


def _ports(ports: Sequence[PortCounts]) -> Iterator[Metric]:
    labels = ("namespace", "pod", "port", "protocol")
    named = [((one.pod.namespace, one.pod.name, str(one.port), one.protocol), one) for one in ports]
    yield _counter(
        "tproxy_port_lookups",
        "New connections, or datagrams, to a port of a pod since it was attached, by what the kernel did.",
        {(*name, verdict): getattr(one.kernel, verdict) for name, one in named for verdict in VERDICTS},
        (*labels, "verdict"),
    )
    yield _counter(
        "tproxy_port_app_connections",
        "Connections to a port of a pod that were taken over and passed on to the app, by reason.",
        {(*name, reason): count for name, one in named for reason, count in one.to_app.items()},
        (*labels, "reason"),
    )


def _requests(totals: Mapping[Outcome, Timed]) -> HistogramMetricFamily:
    family = HistogramMetricFamily(
        "tproxy_requests_seconds",
        "Requests on ports with personal intercepts, by what became of them, and how long they took.",
        labels=("outcome",),
    )
    for outcome, timed in totals.items():
        counts = itertools.accumulate(timed.buckets)
        bounds = [*map(str, BUCKETS), "+Inf"]
        family.add_metric((outcome.value,), list(zip(bounds, counts, strict=True)), timed.seconds)
    return family


def _gauge(
    name: str, help_text: str, values: dict[tuple[str, ...], float], labels: tuple[str, ...] = ()
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, help_text, labels=labels)
    for label_values, value in values.items():
        family.add_metric(label_values, value)
    return family


def _counter(
    name: str, help_text: str, values: dict[tuple[str, ...], float], labels: tuple[str, ...] = ()
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, help_text, labels=labels)
    for label_values, value in values.items():
        family.add_metric(label_values, value)
    return family
