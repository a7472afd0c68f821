"""Health checks of an intercepted port go to the app, everything else to the laptop without delay. Both backends."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from tproxy_node.desired import Route
from tproxy_node.first_bytes import FirstBytes
from tproxy_node.relay import LOOK_SECONDS

from tests.kernel.answering import PORT
from tests.kernel.namespaces import OUTSIDE_IP4, OUTSIDE_IP6, POD_IP4, POD_IP6, PodNetwork, family_of, until
from tests.kernel.test_node_relay import ROUTE, Play, Scene, app, play
from tests.unit.http.test_probe import PROBE, hello
from tproxy.model.flow import ResetReason
from tproxy.tunnel.conn import Buffer, Conn

__all__ = ["play"]

REQUEST = PROBE.replace(b"kube-probe/1.34", b"curl/8")


@pytest.fixture(params=[POD_IP4, POD_IP6])
def host(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Silent:
    """A laptop whose app waits for the client, and answers with what it heard; `heard` is all of it."""

    def __init__(self, scene: Scene) -> None:
        self.heard: list[bytes] = []
        self.opened = 0
        self.resets = 0
        self.ends = 0
        scene.laptop.on_open = self._open

    def _open(self, conn: Conn) -> None:
        self.opened += 1
        self._conn = conn
        conn.sink = self
        conn.accept()

    def conn_opened(self) -> None: ...
    def conn_pause(self) -> None: ...
    def conn_resume(self) -> None: ...

    def conn_reset(self, reason: ResetReason, detail: str) -> None:
        self.resets += 1

    def conn_data(self, data: Buffer) -> None:
        self.heard.append(bytes(data))
        self._conn.consumed(len(data))
        self._conn.write(b"laptop\n")

    def conn_eof(self) -> None:
        self.ends += 1
        self._conn.write_eof()


@asynccontextmanager
async def client(network: PodNetwork, host: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(sock=await network.outside.connect(host, PORT))
    try:
        yield reader, writer
    finally:
        writer.close()


async def served(scene: Scene, host: str, *parts: bytes, pause: float = 0.0) -> str:
    """Who answers these bytes."""
    async with client(scene.network, host) as (reader, writer):
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause)
        async with asyncio.timeout(5):
            return (await reader.readline()).split()[0].decode()


def watching(scene: Scene, from_node: bool = True) -> None:
    """As in a pod whose gateway, or node, is where clients come from."""
    scene.relay.probing.addresses = frozenset([OUTSIDE_IP4, OUTSIDE_IP6] if from_node else [])
    scene.pod.watch_probes(scene.network.pod.netns)


def test_a_probe_is_answered_by_the_app(play: Play, host: str) -> None:
    async def scenario(scene: Scene) -> None:
        laptop = Silent(scene)
        async with app(scene.network):
            async with client(scene.network, host) as (reader, writer):
                writer.write(PROBE)
                assert (await reader.readline()).startswith(b"app ")
                assert await reader.readexactly(len(PROBE)) == PROBE, "the app gets what had been read already"
                writer.write(b"more")
                assert await reader.readexactly(4) == b"more"
            await until(lambda: laptop.ends == 1)
            assert (laptop.heard, laptop.resets) == ([], 0), "ended in order: nobody is to look for a fault"
            await scene.relay.idle()
        assert scene.relay.opened == {"app_probe": 1}
        assert scene.relay.resets == {}

    play(scenario)


@pytest.mark.parametrize(
    ("first", "from_node", "who"),
    [
        (REQUEST, True, "laptop"),
        (PROBE[:-2], True, "laptop"),
        (hello(None), True, "app"),
        (hello(None), False, "laptop"),
        (hello("web.example"), True, "laptop"),
        (b"\x00anything", True, "laptop"),
    ],
)
def test_first_bytes_decide(play: Play, host: str, first: bytes, from_node: bool, who: str) -> None:
    async def scenario(scene: Scene) -> None:
        laptop = Silent(scene)
        async with app(scene.network):
            watching(scene, from_node)
            assert await served(scene, host, first) == who
            assert laptop.heard == ([first] if who == "laptop" else [])
            await scene.relay.idle()
        assert scene.relay.opened == {"laptop": 1} if who == "laptop" else {"app_probe": 1}

    play(scenario)


@pytest.mark.parametrize(("name", "who"), [(None, "app"), ("web.example", "laptop")])
def test_a_hello_in_two_segments(play: Play, host: str, name: str | None, who: str) -> None:
    """Key shares of these days make it larger than a segment."""

    async def scenario(scene: Scene) -> None:
        laptop, first = Silent(scene), hello(name)
        async with app(scene.network):
            watching(scene)
            assert await served(scene, host, first[:50], first[50:], pause=0.05) == who
            assert b"".join(laptop.heard) == (first if who == "laptop" else b"")

    play(scenario)


def test_probes_to_the_laptop_if_so_chosen(play: Play, host: str) -> None:
    async def scenario(scene: Scene) -> None:
        laptop = Silent(scene)
        scene.pod.set_routes({PORT: Route(ROUTE.intercept, ROUTE.session, ROUTE.name, "laptop")})
        watching(scene)  # and without an app
        assert await served(scene, host, PROBE) == "laptop"
        assert laptop.heard == [PROBE]

    play(scenario)


def test_who_waits_for_a_greeting_gets_it_at_once(play: Play, host: str) -> None:
    """From a node's address too; and what follows is not looked at."""

    async def scenario(scene: Scene) -> None:
        async with app(scene.network):
            watching(scene)
            async with client(scene.network, host) as (reader, writer):
                began = time.monotonic()
                assert (await reader.readline()).startswith(b"laptop ")
                assert time.monotonic() - began < 0.2
                writer.write(PROBE)
                assert await reader.readexactly(len(PROBE)) == PROBE
        assert scene.relay.opened == {"laptop": 1}

    play(scenario)


def test_a_probe_comes_before_a_greeting_that_was_not_passed_on(
    play: Play, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel has the probe, only that nobody has read it yet: the app answers it, not the laptop that greets."""
    speaks = FirstBytes.conn_data

    async def scenario(scene: Scene) -> None:
        async with app(scene.network):
            watching(scene)
            probe = await scene.network.outside.connect(host, PORT)

            def speak(first: FirstBytes, data: Buffer) -> None:
                probe.sendall(PROBE)
                speaks(first, data)

            monkeypatch.setattr(FirstBytes, "conn_data", speak)
            reader, writer = await asyncio.open_connection(sock=probe.dup())
            async with asyncio.timeout(5):
                assert (await reader.readline()).startswith(b"app ")
            writer.close()
            probe.close()
            await scene.relay.idle()
        assert scene.relay.opened == {"app_probe": 1}

    play(scenario)


def test_only_first_bytes_are_looked_at(play: Play, host: str) -> None:
    async def scenario(scene: Scene) -> None:
        laptop = Silent(scene)
        async with app(scene.network):
            watching(scene)
            async with client(scene.network, host) as (reader, writer):
                for part in (REQUEST, PROBE, PROBE):
                    writer.write(part)
                    assert await reader.readline() == b"laptop\n"
            assert laptop.heard == [REQUEST, PROBE, PROBE]

    play(scenario)


def refuse(scene: Scene) -> None:
    def on_open(conn: Conn) -> None:
        conn.reset(ResetReason.REFUSED, "no app")

    scene.laptop.on_open = on_open


def test_a_probe_that_comes_after_the_laptops_refusal(play: Play, host: str) -> None:
    async def scenario(scene: Scene) -> None:
        refuse(scene)
        stream = scene.stream
        assert stream is not None
        async with app(scene.network), client(scene.network, host) as (reader, writer):
            await until(lambda: bool(scene.relay.by_session) and not stream.stats.connections)
            writer.write(PROBE)
            assert (await reader.readline()).startswith(b"app ")

    play(scenario)


@pytest.mark.parametrize("first", [REQUEST, b""])
def test_a_refusal_reaches_everybody_else(play: Play, host: str, first: bytes) -> None:
    async def scenario(scene: Scene) -> None:
        refuse(scene)
        async with app(scene.network), client(scene.network, host) as (reader, writer):
            if first:
                writer.write(first)
            with pytest.raises(ConnectionResetError):
                async with asyncio.timeout(0.5 if first else 3):
                    await reader.read()
        await scene.relay.idle()
        assert scene.relay.resets == {"refused": 1}

    play(scenario)


@pytest.mark.parametrize("end", [socket.SHUT_WR, socket.SHUT_RDWR])
def test_handshakes_alone_end_in_order(play: Play, host: str, end: int) -> None:
    """As a check by TCP makes them."""

    async def scenario(scene: Scene) -> None:
        Silent(scene)
        async with app(scene.network):
            watching(scene)
            sock = await scene.network.outside.connect(host, PORT)
            sock.shutdown(end)
            sock.close()
            await scene.relay.idle()
        assert scene.relay.opened == {"laptop": 1}

    play(scenario)


def test_without_the_app_a_nodes_checks_are_refused(play: Play, host: str) -> None:
    async def scenario(scene: Scene) -> None:
        laptop = Silent(scene)
        watching(scene)
        looking = scene.relay.tasks.start(scene.relay.look_for_apps(), "apps")
        with pytest.raises(ConnectionRefusedError):
            await scene.network.outside.connect(host, PORT)
        async with app(scene.network):
            await until(_accepted(scene, host), 2 * LOOK_SECONDS)
        looking.cancel()
        assert laptop.heard == []

    play(scenario)


def _accepted(scene: Scene, host: str) -> Callable[[], bool]:
    def accepted() -> bool:
        with scene.network.outside.netns.socket(family_of(host), socket.SOCK_STREAM) as sock:
            try:
                sock.connect((host, PORT))
            except ConnectionRefusedError:
                return False
        return scene.relay.verdicts()["steered"] > 0

    return accepted


def test_without_the_app_everybody_else_reaches_the_laptop(play: Play, host: str) -> None:
    async def scenario(scene: Scene) -> None:
        Silent(scene)
        watching(scene, from_node=False)
        assert await served(scene, host, REQUEST) == "laptop"
        with pytest.raises(ConnectionResetError):
            await served(scene, host, PROBE)

    play(scenario)
