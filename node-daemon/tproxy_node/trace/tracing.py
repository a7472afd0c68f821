"""One trace: the kernel program, the accept queues, and who the namespaces belong to."""

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tproxy.netns.handle import Netns
from tproxy.trace import report, tracepoints
from tproxy.trace.btf import Btf
from tproxy.trace.overflow import Overflows
from tproxy.trace.program import LOST, OMITTED, Program, definitions, monotonic_zero, reasons
from tproxy_node.trace import confined

TURN_MILLISECONDS = 100
LOOK_SECONDS = 0.5
SUMMARY_SECONDS = 0.5
FRESH_SECONDS = 0.2
"""How often to sum up while nothing happens, and while something does: whoever is interrupted has the last one only."""

Write = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class _Watched:
    netns: Netns
    pod: Mapping[str, str]
    overflows: Overflows | None


class Tracing:
    """Writes events and summaries from within `turn`. Raises TproxyError if this kernel cannot be traced from here."""

    def __init__(self, events: frozenset[str], port: int, rate: int, write: Write) -> None:
        self._write = write
        self._events = events
        self._port = port
        self._watched: dict[int, _Watched] = {}
        self._overflows = 0
        self._news = False
        self._drops: dict[str, int] = {}
        self._drops_seen = 0
        self._zero = monotonic_zero()
        confined.see_tracepoints()
        btf = Btf()
        try:
            self._names = reasons(btf)
            defined = definitions(btf, tracepoints.look_up)
        finally:
            btf.close()
        self._program = Program(confined.kernel_headers(), defined, events, port, rate, self._reported)
        self._began = self._looked = self._summed = time.monotonic()

    @property
    def watching(self) -> int:
        """How many namespaces are watched."""
        return len(self._watched)

    def add(self, pods: Iterable[Mapping[str, Any]], descriptors: Iterable[int]) -> None:
        """Watch these pods' namespaces too, by their descriptors, which are ours from now on."""
        for pod, fd in zip(pods, descriptors, strict=True):
            netns = Netns(fd)
            inode = netns.id.inode
            self._drop(inode)
            overflows = None
            if "overflow" in self._events:
                with contextlib.suppress(OSError):  # a namespace that is being dismantled
                    overflows = Overflows(netns)
            self._watched[inode] = _Watched(netns, {"namespace": pod["namespace"], "pod": pod["pod"]}, overflows)
            self._program.watch([inode])

    def remove(self, inodes: Iterable[int]) -> None:
        """No longer watch these."""
        for inode in inodes:
            self._drop(inode)

    def turn(self) -> None:
        """Take what there is, or wait a moment for it."""
        self._program.poll(TURN_MILLISECONDS)
        now = time.monotonic()
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            self._look()
        if now - self._summed >= (FRESH_SECONDS if self._news else SUMMARY_SECONDS):
            self.sum_up()

    def sum_up(self) -> None:
        """Write how much there was of what, up to now."""
        self._summed, self._news = time.monotonic(), False
        self._write({"summary": self._summary(self._summed)})

    def _drop(self, inode: int) -> None:
        watched = self._watched.pop(inode, None)
        if watched is not None:
            self._program.forget([inode])
            watched.netns.close()
            if watched.overflows is not None:
                watched.overflows.close()

    def _reported(self, data: bytes) -> None:
        inode, event = report.read(data[: report.SIZE], self._names, self._zero)
        watched = self._watched.get(inode)
        if watched is not None:
            self._news = True
            self._write({**event, **watched.pod})

    def _look(self) -> None:
        for watched in self._watched.values():
            if watched.overflows is None:
                continue
            try:
                overflow = watched.overflows.look(self._port)
            except OSError:
                continue
            if overflow is None:
                continue
            self._overflows += overflow.refused
            for queue in overflow.queues or (None,):
                self._write(
                    {
                        "event": "overflow",
                        "time": round(time.time(), 6),
                        **watched.pod,
                        "local": _text(queue.address, queue.port) if queue else "",
                        "waiting": queue.waiting if queue else 0,
                        "room": queue.room if queue else 0,
                        "refused": overflow.refused,
                    }
                )

    def _summary(self, now: float) -> dict[str, Any]:
        totals = self._program.totals()
        counts = {kind: totals[index] for index, kind in enumerate(report.KINDS) if kind in self._events}
        if "overflow" in self._events:
            counts["overflow"] = self._overflows
        return {
            "seconds": round(now - self._began, 3),
            "events": counts,
            "lost": totals[LOST],
            "omitted": totals[OMITTED],
            "drops": self._dropped(totals[report.DROP]),
            "connectSlots": self._program.connects(),
            "openSlots": self._program.opens(),
            "memory": _resident(),
        }

    def _dropped(self, total: int) -> dict[str, int]:
        """By reason. There are many to ask the kernel for, so only when there are more than before."""
        if total != self._drops_seen:
            self._drops_seen = total
            self._drops = {self._names.drop(number): count for number, count in self._program.drops().items()}
        return self._drops


def _text(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _resident() -> int:
    """Bytes of memory in use, shared libraries included."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
