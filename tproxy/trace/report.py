"""What the kernel program reports, as it packs it and as people get it: `struct report` of `bpf/trace/tcp.c`."""

import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

STATE, RETRANSMIT, RESET_SENT, RESET_RECEIVED, DROP = range(5)
KINDS = ("state", "retransmit", "reset-sent", "reset-received", "drop")
STATES = (
    *("", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE", "CLOSE_WAIT"),
    *("LAST_ACK", "LISTEN", "CLOSING", "SYN_RECV"),  # the last one: a request, not yet a socket
)
_REPORT = struct.Struct("=QQQII16s16sHHBBBBBB6x")
SIZE = _REPORT.size
_MAPPED = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96


@dataclass(frozen=True, slots=True)
class Names:
    """What the running kernel calls its reasons, by number."""

    drops: Mapping[int, str]
    resets: Mapping[int, str]

    def drop(self, number: int) -> str:
        """Why a packet was dropped."""
        return self.drops.get(number, f"reason {number}" if number else "")

    def reset(self, number: int) -> str:
        """Why a reset was sent."""
        return self.resets.get(number, f"reason {number}" if number else "")


def plain(names: Mapping[int, str], prefix: str) -> dict[int, str]:
    """Names of an enumeration without what they all begin with."""
    return {number: name.removeprefix(prefix) for number, name in names.items()}


def read(data: bytes, names: Names, since: float) -> tuple[int, dict[str, Any]]:
    """The namespace's inode, and the event as JSON. `since` is what CLOCK_MONOTONIC's zero is in seconds since 1970."""
    time, connect, opened, netns, reason, *ends, family, protocol, kind, old, new, incoming = _REPORT.unpack(data)
    local, remote, local_port, remote_port = ends
    event: dict[str, Any] = {
        "event": KINDS[kind],
        "time": round(since + time / 1e9, 6),
        "local": _address(family, local, local_port),
        "remote": _address(family, remote, remote_port),
    }
    if kind == STATE:
        event |= {"from": STATES[old], "to": STATES[new]}
        if connect:
            event["connectMicroseconds"] = connect // 1000
        if opened:
            event["openMicroseconds"] = opened // 1000
    elif kind == DROP:
        event |= {
            "direction": "in" if incoming else "out",
            "protocol": {socket.IPPROTO_TCP: "TCP", socket.IPPROTO_UDP: "UDP"}.get(protocol, str(protocol)),
            "reason": names.drop(reason),
        }
    else:
        event["state"] = STATES[new]
        if kind == RESET_SENT:
            event["reason"] = names.reset(reason)
    return netns, event


def _address(family: int, packed: bytes, port: int) -> str:
    if family == socket.AF_INET:
        return f"{socket.inet_ntoa(packed[:4])}:{port}"
    if packed.startswith(_MAPPED):
        return f"{socket.inet_ntoa(packed[12:])}:{port}"
    return f"[{socket.inet_ntop(socket.AF_INET6, packed)}]:{port}"
