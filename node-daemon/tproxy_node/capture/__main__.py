"""Run by the node daemon, which talks to it on standard input, a sequence-packet socket.

in    {"port": 0, "snapLength": 262144, "packets": 1000, "pod": "shop/web-1", …}   and the namespace's descriptor
      the end: leave
out   {"ready": true}, or {"error": …, "hint": …}, in a line; then pcapng
"""

import contextlib
import itertools
import json
import os
import platform
import select
import socket
import sys
import time
from collections.abc import Iterable
from typing import Any

from tproxy.netns.handle import Netns
from tproxy.trace import pcapng
from tproxy.trace.ordered import Ordered
from tproxy.trace.packets import Packet, PacketSocket, interfaces
from tproxy.version import VERSION
from tproxy_node.trace import confined

MAX_INTERFACES = 8
"""Of a pod: each takes a ring of 8 MiB."""

COUNT_SECONDS = 0.5
_POLL_SECONDS = 0.1
_AT_ONCE = 256


def main() -> int:
    """Capture until there were enough packets, or the other end of standard input is closed."""
    confined.die_with_parent()
    control = socket.socket(fileno=os.dup(sys.stdin.fileno()))
    data, descriptors, _, _ = socket.recv_fds(control, 64 * 1024, 1)
    if not data or not descriptors:
        return 0
    asked = json.loads(data)
    confined.limit(asked["memory"])
    with contextlib.suppress(BrokenPipeError):
        try:
            sockets = _open(Netns(descriptors[0]), asked["port"], asked["snapLength"])
        except OSError as error:
            hint = "capturing needs the capability NET_RAW" if isinstance(error, PermissionError) else ""
            _write(_line({"error": f"cannot capture: {error.strerror or error}", "hint": hint}))
            return 1
        _write(_line({"ready": True}))
        _capture(control, sockets, asked)
    return 0


def _open(netns: Netns, port: int, snap_length: int) -> list[PacketSocket]:
    return [PacketSocket(netns, name, port, snap_length) for name in interfaces(netns)[:MAX_INTERFACES]]


def _capture(control: socket.socket, sockets: list[PacketSocket], asked: dict[str, Any]) -> None:
    kept = f"port {asked['port']}" if asked["port"] else ""
    head = pcapng.section(f"tproxy {VERSION}", platform.platform(), asked["pod"])
    _write(head + b"".join(pcapng.interface(one.name, one.link, asked["snapLength"], kept) for one in sockets))
    ordered = Ordered()
    left, counted = int(asked["packets"]), time.monotonic()
    control.setblocking(False)
    while left > 0:
        waiting: list[Any] = [control, *sockets]
        ready, _, _ = select.select(waiting, [], [], _POLL_SECONDS)
        if control in ready:
            break  # nothing comes but the end
        for number, one in enumerate(sockets):
            for packet in one.read():
                ordered.add(number, packet)
        left -= _written(ordered.due(time.time_ns()), left)
        if time.monotonic() - counted >= COUNT_SECONDS:
            counted = time.monotonic()
            _write(_counts(sockets))
    _written(ordered.rest(), left)
    _write(_counts(sockets))


def _written(packets: Iterable[tuple[int, Packet]], most: int) -> int:
    """Write them, but no more than so many; how many that were."""
    written = 0
    wanted = itertools.islice(packets, most)
    while some := list(itertools.islice(wanted, _AT_ONCE)):
        _write(b"".join(pcapng.packet(n, one.time, one.data, one.length, one.direction) for n, one in some))
        written += len(some)
    return written


def _counts(sockets: list[PacketSocket]) -> bytes:
    for one in sockets:
        one.count()
    now = time.time_ns()
    return b"".join(pcapng.statistics(number, now, one.received, one.dropped) for number, one in enumerate(sockets))


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


if __name__ == "__main__":
    sys.exit(main())
