"""Who may read what of a container through the tunnel; the reading itself is told, not done."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from tproxy_node import reading as module
from tproxy_node.containers import Look, NoProcessError, TooLargeError
from tproxy_node.opening import Identity, Openings
from tproxy_node.reading import Reading

from tests.unit.node.streams import tunnel
from tproxy.env.archive import File, unpack
from tproxy.env.records import RecordKind, RecordReader
from tproxy.model.flow import NOWHERE, FlowKind, OpenRequest, ResetReason
from tproxy.model.pod import Container, Pod
from tproxy.tunnel.conn import Conn

ANN = Identity("uid-ann", "shop/ann", "ann", "shop")
PODS = [
    Pod("shop", "web", "uid-web", containers=(Container("app", id="a" * 64), Container("side"))),
    Pod("bank", "vault", "uid-vault", containers=(Container("app", id="b" * 64),)),
]


class Told:
    """Containers that say what they are told to."""

    def __init__(self) -> None:
        self.block = b"A=1\0"
        self.file = b"one"
        self.error: Exception | None = None
        self.held = threading.Event()
        self.held.set()

    def _say(self, value: Any) -> Any:
        self.held.wait(30)
        if self.error is not None:
            raise self.error
        return value

    def environ(self, container: Container) -> bytes:
        return bytes(self._say(self.block))

    def signature(self, container: Container) -> tuple[object, ...]:
        return (self._say(self.file),)

    def files(self, container: Container) -> Look:
        return Look((File("/a", self.file),), self.signature(container))


class Reader:
    """The laptop's end of one READ."""

    def __init__(self) -> None:
        self.conn: Conn | None = None
        self.records: asyncio.Queue[tuple[RecordKind, bytes] | ResetReason | None] = asyncio.Queue()
        self.detail = ""
        self._reader = RecordReader()

    def conn_opened(self) -> None: ...
    def conn_pause(self) -> None: ...
    def conn_resume(self) -> None: ...

    def conn_data(self, data: bytes) -> None:
        for record in self._reader.feed(data):
            self.records.put_nowait(record)
        assert self.conn is not None
        self.conn.consumed(len(data))

    def conn_eof(self) -> None:
        self.records.put_nowait(None)

    def conn_reset(self, reason: ResetReason, detail: str) -> None:
        self.detail = detail
        self.records.put_nowait(reason)


class Scene:
    """A session's tunnel to a node that reads."""

    def __init__(self, environment: module.Readers = "node", files: module.Readers = "node") -> None:
        self.told = Told()
        self.pods = list(PODS)
        self.reading = Reading(self.told, lambda: self.pods, environment, files)  # type: ignore[arg-type]
        openings = Openings()
        self.reading.join(openings)
        node, self.laptop = tunnel()
        node.on_open = lambda conn: openings.open(ANN, conn)

    def read(self, protocol: str, pod: str = "shop/web", container: str = "app") -> Reader:
        reader = Reader()
        request = OpenRequest(FlowKind.READ, NOWHERE, pod=pod, protocol=protocol, container=container)
        reader.conn = self.laptop.open(request, reader)
        return reader

    async def answer(self, protocol: str, pod: str = "shop/web", container: str = "app") -> Any:
        return await self.read(protocol, pod, container).records.get()


def play(scenario: Callable[[Scene], Awaitable[None]], *settings: Any) -> None:
    async def run() -> None:
        scene = Scene(*settings)
        async with asyncio.timeout(20):
            await scenario(scene)
        scene.told.held.set()
        await scene.reading.close()

    asyncio.run(run())


def test_environment_and_files_of_the_sessions_own_namespace() -> None:
    async def scenario(scene: Scene) -> None:
        assert await scene.answer("environ") == (RecordKind.ENVIRON, b"A=1\0")
        kind, archive = await scene.answer("files")
        assert (kind, unpack(archive)) == (RecordKind.FILES, [File("/a", b"one")])

    play(scenario)


@pytest.mark.parametrize("protocol", ["environ", "files"])
@pytest.mark.parametrize("pod", ["bank/vault", "bank/web", "shop/vault", "shop/none", "vault", "", "/"])
def test_nothing_of_another_namespace(protocol: str, pod: str) -> None:
    async def scenario(scene: Scene) -> None:
        assert await scene.answer(protocol, pod) is ResetReason.UNREACHABLE

    play(scenario)


def test_containers_that_are_not_there() -> None:
    async def scenario(scene: Scene) -> None:
        reader = scene.read("environ", container="none")
        assert await reader.records.get() is ResetReason.UNREACHABLE
        assert reader.detail == "pod web has no container none; it has app, side"
        for error, reason in (
            (NoProcessError(), ResetReason.UNREACHABLE),
            (TooLargeError("too large"), ResetReason.LIMIT),
            (OSError(13, "Permission denied"), ResetReason.DENIED),
            (OSError(5, "Input/output error"), ResetReason.INTERNAL),
        ):
            scene.told.error = error
            assert await scene.answer("environ") is reason
            assert await scene.answer("files") is reason

    play(scenario)


@pytest.mark.parametrize("protocol", ["environ", "files"])
def test_an_administrator_switches_each_off(protocol: str) -> None:
    async def off(scene: Scene) -> None:
        assert await scene.answer(protocol) is ResetReason.DENIED
        other = {"environ": "files", "files": "environ"}[protocol]
        assert isinstance(await scene.answer(other), tuple)

    async def own(scene: Scene) -> None:
        scene.told.error = AssertionError("nothing is read")
        assert await scene.answer(protocol) == (RecordKind.OWN_RIGHTS, b"")
        assert await scene.answer(protocol, "bank/vault") is ResetReason.UNREACHABLE

    for choice, scenario in (("off", off), ("user", own)):
        settings = {"environ": (choice, "node"), "files": ("node", choice)}[protocol]
        play(scenario, *settings)


@pytest.mark.parametrize("protocol", ["environ", "files"])
def test_of_a_sandboxed_pod_the_node_reads_nothing(protocol: str) -> None:
    async def scenario(scene: Scene) -> None:
        scene.told.error = AssertionError("nothing is read")
        scene.pods = [replace(pod, runtime_class="gvisor") for pod in PODS]
        assert await scene.answer(protocol) == (RecordKind.OWN_RIGHTS, b"")

    play(scenario)


def test_files_are_sent_again_when_they_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)

    async def scenario(scene: Scene) -> None:
        reader = scene.read("files")
        await reader.records.get()
        scene.told.error = NoProcessError()  # the container is being started anew
        await asyncio.sleep(0.05)
        scene.told.error, scene.told.file = None, b"two"
        _, archive = await reader.records.get()  # type: ignore[misc]
        assert unpack(archive) == [File("/a", b"two")]
        scene.pods.clear()
        assert await reader.records.get() is ResetReason.UNREACHABLE

    play(scenario)


def test_a_container_that_hangs_holds_up_nobody_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READ_SECONDS", 0.1)
    monkeypatch.setattr(module, "MAX_THREADS", 2)

    async def scenario(scene: Scene) -> None:
        scene.told.held.clear()
        assert await scene.answer("environ") is ResetReason.TIMED_OUT
        assert await scene.answer("environ") is ResetReason.TIMED_OUT
        assert await scene.answer("environ") is ResetReason.LIMIT
        scene.told.held.set()
        while await scene.answer("environ") is ResetReason.LIMIT:  # noqa: ASYNC110 - until the threads have seen it
            await asyncio.sleep(0.01)
        assert await scene.answer("environ") == (RecordKind.ENVIRON, b"A=1\0")

    play(scenario)


def test_a_large_answer_waits_for_its_reader() -> None:
    async def scenario(scene: Scene) -> None:
        scene.told.block = b"A=" + b"x" * 3_000_000
        _, payload = await scene.answer("environ")
        assert payload == scene.told.block

    play(scenario)


def test_followers_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FOLLOWED", 1)

    async def scenario(scene: Scene) -> None:
        first = scene.read("files")
        await first.records.get()
        assert await scene.answer("files") is ResetReason.LIMIT
        assert first.conn is not None
        first.conn.reset()
        while await scene.answer("environ") is ResetReason.LIMIT:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)

    play(scenario)
