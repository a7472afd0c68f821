"""Watches, against a server that behaves badly in every way."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from tests.unit.kube.server import ApiServer, connected, status_object
from tproxy.kube import watch as watch_module
from tproxy.kube.api import ApiCluster
from tproxy.kube.port import PODS, Applied, Removed, Synced, WatchEvent

PATH = "/api/v1/namespaces/shop/pods"

Stream = Callable[[web.Request, web.StreamResponse], Awaitable[None]]


def pod(name: str, version: int, uid: str = "") -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "uid": uid or f"uid-{name}", "resourceVersion": str(version)},
    }


def event(kind: str, obj: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": obj}).encode() + b"\n"


def sending(*parts: bytes, hold: bool = False) -> Stream:
    """A watch that sends `parts` and then ends, or stays open."""

    async def stream(_: web.Request, response: web.StreamResponse) -> None:
        for part in parts:
            await response.write(part)
        if hold:
            await asyncio.Future()

    return stream


async def cut(request: web.Request, _: web.StreamResponse) -> None:
    """A watch whose connection breaks."""
    assert request.transport is not None
    request.transport.abort()


@dataclass
class Script:
    """Lists and watches in the order in which they are answered; the last one of each goes on for ever."""

    lists: list[tuple[int, list[dict[str, Any]]] | int]
    watches: list[Stream | int]
    versions: list[str] = field(default_factory=list)
    listed: int = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if "watch" not in request.query:
            self.listed += 1
            answer = self.lists.pop(0) if len(self.lists) > 1 else self.lists[0]
            if isinstance(answer, int):
                return web.json_response(status_object(answer, "Bad", "no list"), status=answer)
            return web.json_response({"metadata": {"resourceVersion": str(answer[0])}, "items": answer[1]})
        assert request.query["allowWatchBookmarks"] == "true"
        self.versions.append(request.query["resourceVersion"])
        step = self.watches.pop(0) if len(self.watches) > 1 else self.watches[0]
        if isinstance(step, int):
            return web.json_response(status_object(step, "Bad", "no watch"), status=step)
        response = web.StreamResponse()
        await response.prepare(request)
        await step(request, response)
        return response


def told(events: list[WatchEvent]) -> list[str]:
    """`+name@version`, `-name@version` and `=` for synced."""
    shown = []
    for each in events:
        match each:
            case Applied(obj):
                shown.append(f"+{obj['metadata']['name']}@{obj['metadata']['resourceVersion']}")
            case Removed(obj):
                shown.append(f"-{obj['metadata']['name']}@{obj['metadata']['resourceVersion']}")
            case Synced():
                shown.append("=")
    return shown


async def take(cluster: ApiCluster, count: int) -> list[WatchEvent]:
    events: list[WatchEvent] = []
    async with asyncio.timeout(10), aclosing(cluster.watch(PODS, "shop")) as stream:
        async for each in stream:
            events.append(each)
            if len(events) == count:
                break
    return events


def follow(script: Script, count: int) -> list[str]:
    """The first `count` events of a watch served by `script`."""

    async def main() -> list[WatchEvent]:
        async with connected() as (server, cluster):
            server.answers["GET", PATH] = script.handle
            return await take(cluster, count)

    return told(asyncio.run(main()))


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "_FIRST_DELAY", 0.001)
    monkeypatch.setattr(watch_module, "_LONGEST_DELAY", 0.004)


HOLD = sending(hold=True)


def test_list_then_changes() -> None:
    changes = sending(
        event("ADDED", pod("b", 3)), event("MODIFIED", pod("a", 4)), event("DELETED", pod("b", 5)), hold=True
    )
    script = Script([(2, [pod("a", 1)])], [changes])
    assert follow(script, 5) == ["+a@1", "=", "+b@3", "+a@4", "-b@5"]
    assert script.versions == ["2"]


def test_events_cut_anywhere_and_sent_together() -> None:
    stream = event("ADDED", pod("b", 3)) + event("ADDED", pod("c", 4)) + b"\n" + event("ADDED", pod("d", 5))
    pieces = sending(stream[:10], stream[10:130], stream[130:], hold=True)
    assert follow(Script([(2, [])], [pieces]), 4) == ["=", "+b@3", "+c@4", "+d@5"]


def test_after_an_end_or_a_break_it_goes_on_from_the_last_version() -> None:
    script = Script(
        [(2, [])],
        [sending(event("ADDED", pod("a", 3))), cut, sending(event("ADDED", pod("b", 4))), HOLD],
    )
    assert follow(script, 3) == ["=", "+a@3", "+b@4"]
    assert script.versions[:3] == ["2", "3", "3"]
    assert script.listed == 1


def test_bookmarks_move_on_silently() -> None:
    bookmark = {"metadata": {"resourceVersion": "90"}}
    script = Script([(2, [])], [sending(event("BOOKMARK", bookmark)), sending(event("ADDED", pod("a", 91)), hold=True)])
    assert follow(script, 2) == ["=", "+a@91"]
    assert script.versions == ["2", "90"]


@pytest.mark.parametrize(
    "gone", [sending(event("ERROR", status_object(410, "Expired", "too old resource version"))), 410]
)
def test_410_lists_again_and_says_what_vanished(gone: Stream | int) -> None:
    script = Script(
        [(2, [pod("a", 1), pod("b", 1), pod("c", 1)]), (9, [pod("a", 1), pod("c", 8), pod("d", 9)])],
        [gone, HOLD],
    )
    # What has not changed is not repeated.
    assert follow(script, 8) == ["+a@1", "+b@1", "+c@1", "=", "-b@1", "+c@8", "+d@9", "="]


def test_an_object_made_anew_during_a_gap_is_removed_first() -> None:
    script = Script([(2, [pod("a", 1, "old")]), (9, [pod("a", 8, "new")])], [410, HOLD])
    assert follow(script, 5) == ["+a@1", "=", "-a@1", "+a@8", "="]


def test_changes_are_remembered_for_the_next_list() -> None:
    changes = sending(event("ADDED", pod("b", 3)), event("DELETED", pod("a", 4)))
    script = Script([(2, [pod("a", 1)]), (9, [])], [changes, 410, HOLD])
    assert follow(script, 6) == ["+a@1", "=", "+b@3", "-a@4", "-b@3", "="]


@pytest.mark.parametrize(
    "garbage",
    [
        b"<html>\n",
        b"{}\n",
        b"[]\n",
        b"null\n",
        b'{"type":"ADDED","object":{}}\n',
        b'{"type":"ADDED","object":{"metadata":{"resourceVersion":"9"}}}\n',
        b'{"type":"ADDED","object":{"metadata":{"resourceVersion":9,"uid":"u"}}}\n',
        b'{"type":"DANCED","object":{"metadata":{"resourceVersion":"9","uid":"u"}}}\n',
        b'{"type":"ERROR","object":"x"}\n',
        b"[" * 100_000 + b"\n",
        b"\xff\xfe\n",
    ],
)
def test_garbage_lists_again(garbage: bytes) -> None:
    script = Script([(2, [pod("a", 1)]), (9, [pod("a", 7)])], [sending(garbage), HOLD])
    assert follow(script, 4) == ["+a@1", "=", "+a@7", "="]


def test_a_line_without_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "LINE_LIMIT", 100_000)

    async def endless(_: web.Request, response: web.StreamResponse) -> None:
        while True:
            await response.write(b"x" * 10_000)

    script = Script([(2, []), (9, [])], [endless, HOLD])
    assert follow(script, 2) == ["=", "="]


def test_other_errors_are_tried_again_from_where_it_was() -> None:
    error = sending(event("ERROR", status_object(500, "InternalError", "boom")))
    script = Script([(2, [])], [error, 500, 403, 429, sending(event("ADDED", pod("a", 3)), hold=True)])
    assert follow(script, 2) == ["=", "+a@3"]
    assert set(script.versions) == {"2"}
    assert script.listed == 1


def test_a_list_that_fails_is_tried_again() -> None:
    script = Script([500, 403, 404, (2, [pod("a", 1)])], [HOLD])
    assert follow(script, 2) == ["+a@1", "="]


def test_a_failure_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    script = Script([403, 403, 403, 403, 500, (2, [])], [HOLD])
    assert follow(script, 1) == ["="]
    failures = [record for record in caplog.records if record.message == "watch failed"]
    assert [record.levelname for record in failures] == ["WARNING", "WARNING"]
    assert vars(failures[0])["what"] == 'pods in namespace "shop"'


def test_a_dead_connection_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "WATCH_SECONDS", (0, 0))
    monkeypatch.setattr(watch_module, "_GRACE_SECONDS", 0.05)
    script = Script([(2, [])], [HOLD, sending(event("ADDED", pod("a", 3)), hold=True)])
    assert follow(script, 2) == ["=", "+a@3"]


def test_a_watch_that_ends_at_once_is_not_asked_without_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "_FIRST_DELAY", 0.05)
    monkeypatch.setattr(watch_module, "_LONGEST_DELAY", 0.05)
    script = Script([(2, [])], [sending()] * 4 + [sending(event("ADDED", pod("a", 3)), hold=True)])

    async def main() -> float:
        async with connected() as (server, cluster):
            server.answers["GET", PATH] = script.handle
            began = asyncio.get_running_loop().time()
            await take(cluster, 2)
            return asyncio.get_running_loop().time() - began

    assert asyncio.run(main()) >= 4 * 0.025


def test_the_server_may_come_and_go() -> None:
    async def main() -> list[str]:
        async with connected() as (server, cluster):
            script = Script([(2, [pod("a", 1)])], [cut, cut, sending(event("ADDED", pod("b", 3)), hold=True)])
            up = False

            async def handle(request: web.Request) -> web.StreamResponse:
                nonlocal up
                up = not up
                if up:
                    await cut(request, web.StreamResponse())
                return await script.handle(request)

            server.answers["GET", PATH] = handle
            return told(await take(cluster, 3))

    assert asyncio.run(main()) == ["+a@1", "=", "+b@3"]


def test_cancelling_ends_it_and_its_request() -> None:
    async def main() -> None:
        ended = asyncio.Event()

        async def hold(_: web.Request, response: web.StreamResponse) -> None:
            try:
                await asyncio.Future()
            finally:
                ended.set()

        async with connected() as (server, cluster):
            server.answers["GET", PATH] = Script([(2, [])], [hold]).handle

            async def watch() -> None:
                async for _ in cluster.watch(PODS, "shop"):
                    pass

            async with asyncio.TaskGroup() as group:
                task = group.create_task(watch())
                await _until_watched(server)
                task.cancel()
            async with asyncio.timeout(5):
                await ended.wait()

    asyncio.run(main())


async def _until_watched(server: ApiServer) -> None:
    async with asyncio.timeout(5):
        async for _ in _ticks():
            if any("watch" in each.query for each in server.seen):
                return


async def _ticks() -> AsyncIterator[None]:
    while True:
        yield
        await asyncio.sleep(0.002)


def test_a_slow_consumer_is_not_disturbed_by_the_watchs_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "WATCH_SECONDS", (0, 0))
    monkeypatch.setattr(watch_module, "_GRACE_SECONDS", 0.03)

    async def main() -> None:
        async with connected() as (server, cluster):
            server.answers["GET", PATH] = Script([(2, [])], [sending(event("ADDED", pod("a", 3)), hold=True)]).handle
            seen = 0
            async with aclosing(cluster.watch(PODS, "shop")) as stream:
                async for _ in stream:
                    await asyncio.sleep(0.1)  # longer than the watch lives
                    seen += 1
                    if seen == 3:
                        break

    asyncio.run(main())
