"""Run by the node daemon, which talks to it on standard input, a sequence-packet socket.

in    {"events": ["state", …], "port": 0, "rate": 1000, "memory": 268435456}            first
      {"add": [{"inode": 4026532201, "namespace": "shop", "pod": "web-1"}]}             and descriptors of them
      {"remove": [4026532201]}
      the end: leave
out   {"event": …}       one line each
      {"summary": …}     twice a second and more: everything since the beginning
      {"error": …, "hint": …}
"""

import contextlib
import json
import os
import socket
import sys
from typing import Any

from tproxy.errors import TproxyError
from tproxy_node.trace import confined
from tproxy_node.trace.tracing import Tracing

LARGEST = 64 * 1024
MOST_DESCRIPTORS = 250  # in one message; the kernel's own limit is 253


def main() -> int:
    """Trace until the other end of standard input is closed."""
    confined.die_with_parent()
    control = socket.socket(fileno=os.dup(sys.stdin.fileno()))
    try:
        with contextlib.suppress(BrokenPipeError):
            _trace(control)
    except TproxyError as error:
        _write({"error": error.message, "hint": error.hint})
        _flush()
        return error.exit_code
    return 0


def _trace(control: socket.socket) -> None:
    first = _read(control)
    if first is None:
        return
    asked, _ = first
    confined.limit(asked["memory"])
    tracing = Tracing(frozenset(asked["events"]), asked["port"], asked["rate"], _write)
    _write({"ready": True})
    tracing.sum_up()
    _flush()
    control.setblocking(False)
    while True:
        try:
            message = _read(control)
        except BlockingIOError:
            tracing.turn()
            _flush()
            continue
        if message is None:
            return
        what, descriptors = message
        tracing.add(what.get("add", ()), descriptors)
        tracing.remove(what.get("remove", ()))
        _write({"watching": tracing.watching})
        _flush()


def _read(control: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    data, descriptors, _, _ = socket.recv_fds(control, LARGEST, MOST_DESCRIPTORS)
    return (json.loads(data), descriptors) if data else None


# One write for all that a turn has brought: whoever reads it is the daemon, and has more to do.
_pending: list[bytes] = []


def _write(line: dict[str, Any]) -> None:
    _pending.append(json.dumps(line, separators=(",", ":"), ensure_ascii=False).encode() + b"\n")


def _flush() -> None:
    data = memoryview(b"".join(_pending))
    _pending.clear()
    while data:
        data = data[os.write(1, data) :]


if __name__ == "__main__":
    sys.exit(main())
