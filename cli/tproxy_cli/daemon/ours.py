"""Which of this laptop's intercepts a new one is, or excludes. Pure."""

from collections.abc import Iterable, Sequence

from tproxy.errors import ConflictError
from tproxy.model.conditions import AUTO_HEADER
from tproxy.model.conflict import exclude
from tproxy.model.intercept import Target
from tproxy_cli.daemon.held import Held
from tproxy_cli.daemon.state import LaptopPort, SavedIntercept


def in_the_way(one: SavedIntercept, other: SavedIntercept) -> bool:
    """Whether only one of the two can be had."""
    shared = {port.pod for port in one.ports} & {port.pod for port in other.ports}
    return one.target == other.target and bool(shared) and exclude(one.match, other.match)


def same(held: Iterable[Held], wanted: SavedIntercept) -> Held | None:
    """Our intercept of the same requests, if there is one. Raises `ConflictError` if one of ours is in the way."""
    for one in held:
        if one.leaving or not in_the_way(one.saved, wanted):
            continue
        if not one.saved.uid:
            raise ConflictError(f"another command of yours is just intercepting {wanted.target}", "wait for it")
        if _asked_for(one.saved) == _asked_for(wanted):
            return one
        taken = sorted({port.pod for port in one.saved.ports} & {port.pod for port in wanted.ports})
        numbers = ", ".join(map(str, taken))
        requests = f" for requests with {one.saved.match}" if one.saved.match is not None else ""
        raise ConflictError(
            f"you already intercept port {numbers} of {wanted.target}{requests} as {one.name},"
            " with other ports or options",
            f"`tproxy leave {one.name}` first",
        )
    return None


def fresh_value(held: Iterable[Held], target: Target, ports: Sequence[LaptopPort]) -> str:
    """What the header made for an earlier command of the same ports has: a person who repeats it means that one."""
    wanted = {port.pod for port in ports}
    for one in held:
        if one.leaving or one.saved.match is None or one.saved.target != target:
            continue
        if wanted == {port.pod for port in one.saved.ports}:
            for header in one.saved.match.headers:
                if header.name == AUTO_HEADER and not header.regex:
                    return header.value
    return ""


def _asked_for(one: SavedIntercept) -> tuple[object, ...]:
    return (
        {port.pod for port in one.ports},
        one.match,
        one.on_disconnect,
        one.on_refused,
        one.probes,
        one.existing,
        one.drain_seconds,
        one.run,
        one.proxy_protocol,
    )
