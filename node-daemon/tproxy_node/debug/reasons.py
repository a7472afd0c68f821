"""Why a new connection to a pod's port goes where it goes: the decision, step by step, from what was found. Pure.

The steps are those of the connection itself, in its order; the first that settles the matter makes the sentence.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tproxy.steer.port import SteeredPort
from tproxy_node.debug.facts import Candidate, Facts
from tproxy_node.debug.seen import differences
from tproxy_node.debug.waiting import SILENT_SECONDS

Outcome = Literal["ok", "no", "note"]

STALLED_SECONDS = 1.0
"""Bytes that a laptop is ready for are gone in far less."""


@dataclass(frozen=True, slots=True)
class Step:
    """One question on the way, and its answer."""

    name: str
    outcome: Outcome
    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What comes of it: `goes` is laptop, app or nobody."""

    goes: str
    text: str
    remedy: str = ""


Explained = Iterator[Step | Verdict]
"""Steps, then one verdict."""


def explain(facts: Facts) -> tuple[list[Step], Verdict]:
    """The steps and what they come to."""
    steps: list[Step] = []
    for one in _walk(facts):
        if isinstance(one, Verdict):
            return steps, one
        steps.append(one)
    raise AssertionError("the walk ends with a verdict")


def _walk(facts: Facts) -> Explained:
    place = f", network namespace {facts.seen.netns}" if facts.seen is not None else ""
    yield Step("pod", "ok", f"{facts.pod} runs on node {facts.node}{place}")
    if not facts.wanting:
        yield from _nobody_wants(facts)
        return
    yield from _intercepted(facts)


def _nobody_wants(facts: Facts) -> Explained:
    """The port is no intercept's: our code is not in the path."""
    yield Step("intercept", "no", f"none has port {_port(facts.port)}")
    if facts.seen is not None and facts.seen.counters(facts.port) is not None:
        yield Step("steering", "no", "the kernel steers the port all the same")
    others = [f"{one.name} of {one.whose} has {_ports(one)}" for one in facts.candidates]
    yield from _app(facts)
    if others:
        verdict = f"port {_port(facts.port)} is not intercepted, so the app gets it: {'; '.join(others)}"
        remedy = f"ask for the other port, or intercept this one too: `tproxy intercept … -p LOCAL:{_port(facts.port)}`"
        yield Verdict("app", verdict, remedy)
    else:
        yield Verdict(
            "app", f"nobody intercepts {facts.pod}, so the app gets it", "`tproxy list -A` shows all intercepts"
        )


def _intercepted(facts: Facts) -> Explained:
    yield from _claims(facts)
    yield from _steering(facts)
    if facts.source:
        yield from _source(facts)
    if facts.personal:
        yield from _match(facts)
    chosen = facts.chosen
    if chosen is None:
        yield from _app(facts)
        yield _not_chosen(facts)
        return
    if facts.older:
        yield Step("older connections", "note", f"still with the app, from before the intercept: {facts.older}")
    yield from _tunnel(facts, chosen)
    yield from _local_app(facts, chosen)
    yield from _port_in_use(facts)
    went = f"a new connection to port {_port(facts.port)} goes to {chosen.whose}, by {chosen.name}"
    if facts.personal:
        went = f"such a request goes to {chosen.whose}, by {chosen.name}{_of(chosen)}"
    went += "".join(_others(facts, chosen))
    if facts.older:
        older = "1 older connection stays" if facts.older == 1 else f"{facts.older} older connections stay"
        went += f"; {older} with the app until the next request, or for good"
        yield Verdict("laptop", went, "`tproxy intercept … --existing reset` has clients begin new ones")
        return
    yield Verdict("laptop", went)


def _others(facts: Facts, chosen: Candidate) -> Iterator[str]:
    """Who might expect it instead, and why they don't get it."""
    for one in facts.wanting:
        if one.reason == "PortTaken":
            yield f"; {one.name} of {one.whose} was refused: {one.trouble}"
        elif one is not chosen and one in facts.matching:
            yield f"; {one.name} of {one.whose}{_of(one)} matches too, but {chosen.name} goes first"


def _claims(facts: Facts) -> Explained:
    for one in facts.wanting:
        text = f"{one.name} of {one.whose}: {one.match or 'all connections'}"
        yield Step("intercept", "no" if one.trouble else "ok", f"{text}; {one.trouble}" if one.trouble else text)
    in_force = [one for one in facts.wanting if not one.trouble]
    if in_force:
        return
    first = facts.wanting[0]
    if first.reason == "NoTunnel":
        yield from _app(facts)
        lost = facts.tunnel
        if lost is not None and lost.lost:
            how = "has stalled" if "silent" in lost.lost else "is gone"
            said = f"the tunnel to {first.whose} {how}: {lost.lost}, and {lost.lost_ago:.0f} s have passed since"
        else:
            said = f"there is no tunnel to {first.whose}"
        yield Verdict(
            "app",
            f"{said}; so the app gets it",
            "on that laptop: `tproxy status`; it connects again by itself when it can",
        )
        return
    yield from _app(facts)
    remedy = {
        "PortTaken": "agree with them, or intercept with `--http-header` of your own: personal intercepts share a port",
        "NoSession": "`tproxy leave` and intercept anew",
    }.get(first.reason, f"`kubectl describe intercept -n {first.name.replace('/', ' ')}` shows its status")
    yield Verdict("app", f"{first.name} of {first.whose} has not got the port: {first.trouble}", remedy)


def _steering(facts: Facts) -> Explained:
    if facts.unsteered or facts.seen is None:
        why = facts.unsteered or "its network has not been found"
        yield Step("network namespace", "no", why)
        yield Verdict(
            "app", f"the pod is not steered, so the app gets it: {why}", "the node daemon tries again by itself"
        )
        return
    seen, one = facts.seen, facts.seen.of(facts.port.protocol)
    wanted = {
        port: "an intercept" for candidate in facts.candidates for port in candidate.ports if not candidate.trouble
    }
    if one is not None:
        lease = f"the lease has {one.lease:.1f} s left" if one.lease is not None and one.lease > 0 else "no lease"
        yield Step("link", "ok" if one.attached else "no", f"{one.name} of {one.backend} is attached; {lease}")
    wrong = [each for each in differences(seen, wanted, facts.cookies) if "nobody asks" not in each]
    ours = seen.ours(facts.cookies)
    if ours and not wrong:
        waits = max(listener.queue for listener in ours)
        yield Step("listener", "ok", f"{len(ours)} of the relay, {waits} connections wait to be accepted")
    for each in wrong:
        yield Step("steering", "no", each)
    if wrong:
        busy = "the node daemon accepts too slowly" if any("accept queue" in each for each in wrong) else wrong[0]
        goes = "nobody" if any("accept queue" in each for each in wrong) else "app"
        remedy = "`tproxy node status NODE -o wide`; the daemon's log says more"
        yield Verdict(goes, f"port {_port(facts.port)} is not steered as it should be: {busy}", remedy)
        return
    if facts.full or facts.session_full:
        whose = "the node" if facts.full else "the session"
        yield Step("limits", "no", f"{whose} has as many connections as it may have")
        yield Verdict("app", f"{whose} is full, so the app gets new connections", "values `limits` of the chart")


def _source(facts: Facts) -> Explained:
    if not facts.from_node:
        yield Step("source", "ok", f"{facts.source} is none of the node's addresses: it cannot be a health check's")
        return
    yield Step("source", "note", f"{facts.source} is an address of the node: health checks come from there")
    if facts.probes != "app":
        return
    if facts.checker:
        yield from _app(facts)
        yield Verdict("app", "it is a health check, which the app answers itself", "`tproxy intercept --probes laptop`")
    elif not facts.apps and facts.port.protocol == "TCP":
        yield from _app(facts)
        yield Verdict(
            "app",
            "nothing listens in the pod, so that health checks fail as they should; from a node's address the"
            " connection is refused",
            "start the app in the pod, or ask from elsewhere",
        )


def _match(facts: Facts) -> Explained:
    asked = facts.asked or "a request without the headers asked for"
    if facts.chosen is None:
        yield Step("match", "note", f"{asked}: no personal intercept matches")
    else:
        yield Step("match", "ok", f"{asked}: {facts.chosen.name} of {facts.chosen.whose}{_of(facts.chosen)}")


def _not_chosen(facts: Facts) -> Verdict:
    listed = "; ".join(f"{one.name} of {one.whose} takes {one.match}" for one in facts.wanting if one.match)
    for one in facts.wanting:
        if one.reason == "PortTaken":
            return Verdict(
                "app",
                f"such a request is the app's: {one.name} of {one.whose} was refused, {one.trouble}",
                "agree with them, or take another header value",
            )
    return Verdict(
        "app",
        f"such a request matches no intercept, so the app gets it: {listed}",
        "give `--header NAME=VALUE` as the client sends it, or see `tproxy node flows`",
    )


def _tunnel(facts: Facts, chosen: Candidate) -> Explained:
    tunnel = facts.tunnel
    if tunnel is None or not tunnel.streams:
        return
    figures = f"round trip {tunnel.rtt * 1000:.1f} ms, heard {tunnel.quiet:.1f} s ago, {tunnel.queued} bytes queued"
    if tunnel.quiet >= SILENT_SECONDS:
        yield Step("tunnel", "no", figures)
        yield Verdict(
            "nobody",
            f"the tunnel has stalled: the laptop of {chosen.whose} has said nothing for {tunnel.quiet:.0f} s; after 6 s"
            " the app gets new connections",
            "see whether that laptop sleeps, or its network is gone; `tproxy status` there",
        )
        return
    if tunnel.oldest >= STALLED_SECONDS:
        yield Step("tunnel", "no", f"{figures}, the oldest for {tunnel.oldest:.1f} s")
        yield Verdict(
            "laptop",
            f"the tunnel to {chosen.whose} has stalled: bytes have waited in it for {tunnel.oldest:.1f} s",
            "its path is slow or full; `tproxy status` on that laptop shows its side",
        )
        return
    yield Step("tunnel", "ok", figures)
    if tunnel.waiting:
        yield Step("tunnel", "note", f"{tunnel.waiting} connections wait for their local app to read")


def _local_app(facts: Facts, chosen: Candidate) -> Explained:
    if facts.tried is None:
        if facts.failures:
            yield Step("local app", "note", f"{facts.failures} recent connections ended with {facts.failure}")
        return
    said = facts.tried.detail or facts.tried.outcome
    if facts.tried.outcome == "accepted":
        yield Step("local app", "ok", "accepted a connection just now")
        return
    yield Step("local app", "no", f"asked just now: {said}")
    text, remedy = {
        "refused": (
            f"the app on the laptop of {chosen.whose} is down: nothing listens there ({said})",
            f"start it there, or give the traffic back: `tproxy leave {chosen.name.partition('/')[2]}`",
        ),
        "timed-out": (
            f"the app on the laptop of {chosen.whose} accepts nothing: it is stopped, or its accept queue is full",
            "see whether it is in a debugger or busy, or `tproxy leave`",
        ),
        "denied": (
            f"the laptop of {chosen.whose} does not take connections of {chosen.name}: {said}",
            "`tproxy list` there shows what it has; leave and intercept anew",
        ),
        "tunnel-lost": (f"the tunnel to {chosen.whose} has just been lost", "ask again in a moment"),
    }.get(facts.tried.outcome, (f"the app on the laptop of {chosen.whose} cannot be reached: {said}", ""))
    yield Verdict("nobody", text, remedy)


def _port_in_use(facts: Facts) -> Explained:
    """An intercept that works, of a port that nobody uses: most often a Service's port instead of the pod's."""
    if facts.port.protocol != "TCP" or facts.apps or facts.sends or not facts.others:
        return
    steered = facts.seen.counters(facts.port) if facts.seen is not None else None
    if steered is not None and steered.steered:
        return
    yield Step("port", "no", f"no app listens on it, and no Service sends to it; {'; '.join(facts.others)}")
    right = facts.others[0].rpartition(" ")[2]
    yield Verdict(
        "laptop",
        f"port {facts.port.port} is the wrong port: nothing in the pod listens on it and no Service sends to it"
        f" ({'; '.join(facts.others)})",
        f"`tproxy leave`, then intercept with `-p LOCAL:{right}`",
    )


def _app(facts: Facts) -> Explained:
    """How the app would take it."""
    if facts.port.protocol != "TCP" or facts.seen is None:
        return
    apps = facts.apps
    if not apps:
        listening = sorted(
            {one.port for one in facts.seen.listening} - {one.port for one in facts.seen.ours(facts.cookies)}
        )
        elsewhere = f"; the pod listens on {', '.join(map(str, listening))}" if listening else ""
        yield Step("app", "no", f"nothing listens on port {facts.port.port} in the pod{elsewhere}")
        yield Verdict(
            "nobody",
            f"port {facts.port.port} is refused: no laptop has it, and nothing listens on it in the pod{elsewhere}",
            f"{facts.others[0]}: ask about that port"
            if facts.others
            else "start the app, or ask for a port that it has",
        )
        return
    full = [one for one in apps if one.overflowing]
    if full:
        worst = max(full, key=lambda one: one.queue)
        yield Step("app", "no", f"its accept queue is full: {worst.queue} wait, {worst.limit} may")
        yield Verdict(
            "nobody",
            f"the app's accept queue overflows: {worst.queue} connections wait on port {facts.port.port} and only"
            f" {worst.limit} may, so the kernel drops new ones; {facts.seen.overflows} were lost in this pod so far",
            "see why the app does not accept (a stuck thread, a debugger), or raise its backlog",
        )
        return
    most = max(one.queue for one in apps)
    yield Step("app", "ok", f"listens on port {facts.port.port}, {most} connections wait to be accepted")


def _port(port: SteeredPort) -> str:
    return str(port.port) if port.protocol == "TCP" else f"{port.port}/udp"


def _ports(one: Candidate) -> str:
    return ", ".join(_port(port) for port in one.ports)


def _of(one: Candidate) -> str:
    return f" ({one.match})" if one.match else ""
