"""List, then follow: one kind of object as an endless stream of events.

list ──► Removed* Applied* Synced ──► watch ──► Applied | Removed …
 ▲                                      │
 └────────── 410, nonsense ◄────────────┤
             cut, timed out ──► back-off ──► watch again from the last resource version
"""

import asyncio
import json
import logging
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Protocol

import aiohttp

from tproxy.errors import ClusterError, TproxyError
from tproxy.kube.errors import ExpiredError
from tproxy.kube.port import Applied, Object, Removed, Synced, WatchEvent

log = logging.getLogger(__name__)

LINE_LIMIT = 8 << 20
"""Bytes of one event. etcd holds objects of at most 1.5 MiB."""

WATCH_SECONDS = (240, 480)
"""The server ends a watch after a random time in this range, so that clients spread over its replicas."""

_GRACE_SECONDS = 15.0
_SUSPICIOUS_SECONDS = 1.0
_FIRST_DELAY = 0.2
_LONGEST_DELAY = 4.0


class Source(Protocol):
    """What a watch needs of the API server, for one kind, place and selector."""

    @property
    def what(self) -> str:
        """For logs: `pods in namespace "shop"`."""
        ...

    async def list(self) -> tuple[Sequence[Object], str]:
        """Everything there is now, and the resource version that is as of."""
        ...

    def open(self, version: str, seconds: int) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """A watch from `version` on, ending by itself after `seconds`."""
        ...


class Nonsense(ClusterError):
    """The stream is not what a watch may send."""


async def follow(source: Source) -> AsyncGenerator[WatchEvent, None]:
    """The events of `source`; ends only when cancelled or closed. Failures are logged and tried again."""
    known: dict[str, Object] = {}
    version: str | None = None
    delay = _Delay()
    while True:
        try:
            if version is None:
                objects, version = await source.list()
                for change in _compare(known, objects):
                    yield change
                yield Synced()
            began, events = asyncio.get_running_loop().time(), 0
            async with aclosing(_watch(source, version)) as stream:
                async for seen, event in stream:
                    events += 1
                    delay.reset()
                    version = seen
                    if event is not None:
                        _remember(known, event)
                        yield event
            if not events and asyncio.get_running_loop().time() - began < _SUSPICIOUS_SECONDS:
                await delay.wait()
        except (ExpiredError, Nonsense) as error:
            log.info("listing again", extra={"what": source.what, "error": error.message})
            version = None
            await delay.wait()
        except TproxyError as error:
            if delay.grew_after(error.message):
                log.warning("watch failed", extra={"what": source.what, "error": error.message})
            await delay.wait()


async def _watch(source: Source, version: str) -> AsyncGenerator[tuple[str, Applied | Removed | None], None]:
    """One watch request: of each event the resource version to go on from, and what to tell."""
    seconds = random.randint(*WATCH_SECONDS)  # noqa: S311 (spreads load, hides nothing)
    deadline = asyncio.get_running_loop().time() + seconds + _GRACE_SECONDS
    async with source.open(version, seconds) as response, aclosing(_lines(response.content, deadline)) as lines:
        async for line in lines:
            yield _event(line)


def _event(line: bytes) -> tuple[str, Applied | Removed | None]:
    try:
        value = json.loads(line)
        kind, obj = value["type"], value["object"]
        if kind == "ERROR":
            raise _reported(obj)
        version, uid = obj["metadata"]["resourceVersion"], obj["metadata"].get("uid")
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise Nonsense(f"a watch sent {line[:64]!r}") from error
    if not isinstance(version, str) or not (isinstance(uid, str) or kind == "BOOKMARK"):
        raise Nonsense(f"a watch sent {line[:64]!r}")
    match kind:
        case "ADDED" | "MODIFIED":
            return version, Applied(obj)
        case "DELETED":
            return version, Removed(obj)
        case "BOOKMARK":
            return version, None
    raise Nonsense(f"a watch sent an event of type {str(kind)[:32]!r}")


def _reported(status: Object) -> TproxyError:
    message = str(status.get("message", ""))[:256]
    if status.get("code") == 410 or status.get("reason") in ("Expired", "Gone"):
        return ExpiredError(message)
    return ClusterError(f"the API server ended a watch: {message}")


def _compare(known: dict[str, Object], objects: Sequence[Object]) -> list[WatchEvent]:
    """What a fresh list says beyond what was known; `known` is brought up to date."""
    now = {obj["metadata"]["uid"]: obj for obj in objects}
    events: list[WatchEvent] = [Removed(obj) for uid, obj in known.items() if uid not in now]
    for uid, obj in now.items():
        old = known.get(uid)
        if old is None or old["metadata"].get("resourceVersion") != obj["metadata"].get("resourceVersion"):
            events.append(Applied(obj))
    known.clear()
    known.update(now)
    return events


def _remember(known: dict[str, Object], event: Applied | Removed) -> None:
    uid = event.object["metadata"]["uid"]
    if isinstance(event, Applied):
        known[uid] = event.object
    else:
        known.pop(uid, None)


async def _lines(content: aiohttp.StreamReader, deadline: float) -> AsyncGenerator[bytes, None]:
    """Lines of at most LINE_LIMIT bytes, until the end or the loop's `deadline`: a connection may be dead without
    saying so. The reader's own `readline` has a fixed, far smaller limit.
    """
    pending: list[bytes] = []
    size = 0
    while True:
        try:
            async with asyncio.timeout_at(deadline):
                part = await content.readany()
        except TimeoutError:
            return
        if not part:
            return
        first, *rest = part.split(b"\n")
        pending.append(first)
        size += len(first)
        for piece in rest:
            line = b"".join(pending)
            pending, size = [piece], len(piece)
            if line.strip():
                yield line
        if size > LINE_LIMIT:
            raise Nonsense(f"a watch sent a line of more than {LINE_LIMIT >> 20} MiB")


class _Delay:
    """Exponential back-off with jitter."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._error = ""

    def reset(self) -> None:
        """Something went well."""
        self._seconds, self._error = 0.0, ""

    def grew_after(self, error: str) -> bool:
        """Whether `error` is news."""
        news, self._error = error != self._error, error
        return news

    async def wait(self) -> None:
        """The next, longer, pause."""
        self._seconds = min(max(self._seconds * 2, _FIRST_DELAY), _LONGEST_DELAY)
        await asyncio.sleep(self._seconds * random.uniform(0.5, 1.0))  # noqa: S311 (spreads load, hides nothing)
