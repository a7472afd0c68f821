"""A process that traces, as the node daemon has it, and what it says."""

import asyncio
import contextlib
import json
import subprocess
from collections.abc import AsyncIterator, Callable
from typing import Any

from tproxy_node.child import Child

from tproxy.trace.program import HOOKS
from tproxy.trace.report import KINDS

MEMORY = 256 << 20
EVENTS = (*KINDS, "overflow")
Line = dict[str, Any]


class Trace:
    """Collects what it says; `seen` are the events, `summary` is the last one."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.seen: list[Line] = []
        self.summary: Line = {}
        self.summaries = 0
        self.watching = 0

    async def watch(self, namespace: Any, pod: str = "web-1") -> None:
        """Trace this namespace too."""
        inode = namespace.netns.id.inode
        self.child.tell({"add": [{"inode": inode, "namespace": "shop", "pod": pod}]}, [namespace.netns.fileno()])
        await self.watched(self.watching + 1)

    async def watched(self, count: int) -> None:
        """Until so many namespaces are watched."""
        await self.until(lambda: self.watching == count)

    async def until(self, condition: Callable[[], object], seconds: float = 15) -> None:
        """Read until it holds."""
        async with asyncio.timeout(seconds):
            while not condition():
                line = json.loads(await self.child.line())
                if "summary" in line:
                    self.summary = line["summary"]
                    self.summaries += 1
                elif "watching" in line:
                    self.watching = line["watching"]
                else:
                    self.seen.append(line)

    async def settled(self) -> None:
        """Until everything that has happened by now is in the summary, and in what was seen."""
        after = self.summaries + 2
        await self.until(lambda: self.summaries >= after)

    def of(self, event: str, **fields: Any) -> list[Line]:
        """Events of a kind that look like this."""
        return [
            one
            for one in self.seen
            if one["event"] == event and all(one.get(name) == value for name, value in fields.items())
        ]


@contextlib.asynccontextmanager
async def tracing(
    *, events: tuple[str, ...] = EVENTS, port: int = 0, rate: int = 1000, memory: int = MEMORY
) -> AsyncIterator[Trace]:
    """One that is ready."""
    child = await Child.start("tproxy_node.trace")
    try:
        child.tell({"events": events, "port": port, "rate": rate, "memory": memory})
        async with asyncio.timeout(30):
            first = json.loads(await child.line() or b"null")
        assert first == {"ready": True}, (first, await child.close())
        yield Trace(child)
    finally:
        await child.close()


def programs() -> set[int]:
    """Ids of programs like a trace's in the kernel, whoever holds them."""
    names = {function for _, function, _ in HOOKS}
    return _ids("prog", names)


def maps() -> set[int]:
    """The same of maps."""
    return _ids("map", {"tproxy_reports", "tproxy_traced", "tproxy_conns", "tproxy_totals"})


def _ids(kind: str, names: set[str]) -> set[int]:
    listed = subprocess.run(["bpftool", "-j", kind, "show"], capture_output=True, text=True, check=True).stdout
    return {one["id"] for one in json.loads(listed) if one.get("name") in names}
