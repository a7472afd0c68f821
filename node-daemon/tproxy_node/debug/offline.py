"""What there is of tproxy on this node when no daemon answers: read from the kernel, changing nothing.

A dead daemon's links went with it, so nothing is the good news. One that hangs holds links whose lease has run out, and
the kernel gives new connections to the apps; rules of TPROXY outlive a daemon, harmless once their lease has ended.
"""

import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tproxy.netns.handle import Netns
from tproxy.steer import held
from tproxy.steer.held import Held
from tproxy.steer.sock_diag import listening

NAMED = Path("/var/run/netns")
_POD = re.compile(r"pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12})")
_HOST_LIMIT = 256

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Network:
    """A network namespace: a file to open it by, and whose it is as far as can be seen."""

    path: Path
    pod: str  # UID
    host: str  # what its processes call themselves: of a pod, its name


def answer(proc: Path, path: Path) -> Iterator[Json]:
    """Lines like those of an answer: the daemon at the socket `path`, then each attachment. Raises OSError."""
    yield {"daemon": daemon(path, proc)}
    networks = dict(_networks(proc))
    found = held.by_links()
    for network in networks.values():
        try:
            with_netns = Netns.open(network.path)
        except OSError:
            continue  # it went away meanwhile, or may not be looked at
        try:
            found += held.by_rules(with_netns)
        except OSError:
            continue
        finally:
            with_netns.close()
    for one in found:
        yield {"held": _described(one, networks.get(one.netns))}


def daemon(path: Path, proc: Path) -> Json:
    """Who listens on the socket, and in which state that process is; without one, the pid is 0."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(1)
        try:
            asking.connect(str(path))
            pid = int.from_bytes(asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 4), "little")
        except OSError as error:
            return {"pid": 0, "state": f"nobody listens on {path}: {error.strerror or error}"}
    return {"pid": pid, "state": _state(proc, pid)}


def _state(proc: Path, pid: int) -> str:
    try:
        letter = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "is in another process namespace, or gone"
    return {"T": "is stopped", "t": "is being debugged", "Z": "is dead"}.get(letter, "runs")


def _described(one: Held, network: Network | None) -> Json:
    listeners: list[Json] = []
    if network is not None and one.listeners:
        try:
            netns = Netns.open(network.path)
        except OSError:
            pass
        else:
            listeners = [
                {"address": f"{each.host}:{each.port}", "queue": each.queue, "limit": each.limit}
                for each in listening(netns)
                if each.cookie in one.listeners
            ]
            netns.close()
    return {
        "netns": one.netns,
        "pod": network.pod if network is not None else "",
        "host": network.host if network is not None else "",
        "backend": one.backend,
        "name": one.name,
        "protocol": one.protocol,
        "attached": one.attached,
        "leaseSeconds": one.lease,
        "listeners": listeners,
        "ports": [{"port": port.port, "kernel": asdict(counters)} for port, counters in one.ports.items()],
    }


def _networks(proc: Path) -> Iterator[tuple[int, Network]]:
    """Every namespace that can be seen, by inode; those of processes first, which say whose they are."""
    seen: set[int] = set()
    for path in [*_processes(proc), *_named()]:
        try:
            inode = path.stat().st_ino
        except OSError:
            continue
        if inode not in seen:
            seen.add(inode)
            yield inode, _network(path)


def _processes(proc: Path) -> Iterator[Path]:
    for directory in sorted(proc.glob("[0-9]*"), key=lambda one: int(one.name)):
        yield directory / "ns" / "net"


def _named() -> Iterator[Path]:
    try:
        yield from sorted(NAMED.iterdir())
    except OSError:
        return


def _network(path: Path) -> Network:
    process = path.parents[1]
    pod = host = ""
    try:
        found = _POD.search((process / "cgroup").read_text())
        pod = found[1].replace("_", "-") if found else ""
        with (process / "root/etc/hostname").open(errors="replace") as file:
            host = file.read(_HOST_LIMIT).strip() if pod else ""
    except OSError:
        pass  # a namespace by name has no process
    return Network(path, pod, host)


def states(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What it means, in sentences."""
    who = next((one["daemon"] for one in found if "daemon" in one), {"pid": 0, "state": ""})
    attachments = [one["held"] for one in found if "held" in one]
    yield f"node daemon: process {who['pid']} {who['state']}" if who["pid"] else f"node daemon: {who['state']}"
    steering = [one for one in attachments if one["attached"] and (one["leaseSeconds"] or -1) > 0 and one["ports"]]
    if not attachments:
        yield "the kernel holds nothing of tproxy: every new connection goes to its app"
    elif not steering:
        yield "what the kernel still holds steers nothing: no lease is fresh, so every new connection goes to its app"
    else:
        yield f"{len(steering)} of {len(attachments)} attachments steer: somebody renews their lease"
