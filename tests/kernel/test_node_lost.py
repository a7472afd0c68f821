"""The laptop of a global intercept is lost: what becomes of each client that is connected to it."""

import contextlib
from dataclasses import replace

import pytest
from tproxy_node import ending
from tproxy_node.desired import Route

from tests.kernel.namespaces import PodNetwork, until
from tests.kernel.sharing import PLAIN, Client, Play, Scene, Site, player
from tests.unit.node.streams import tunnel
from tproxy.http.port import Choice
from tproxy.model.match import HeaderMatch, Match
from tproxy.steer.port import Steering
from tproxy.tunnel.conn import Buffer, Conn

ROUTE = Route("uid-all", "session-all", "shop/web-all", drain_seconds=1, host="adas")
FAIL = replace(ROUTE, on_disconnect="fail")
POST = b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 2\r\n\r\nok"
LEFT = "(laptop adas, intercept shop/web-all)\n"


@pytest.fixture
def play(network: PodNetwork, steering: Steering) -> Play:
    return player(network, steering, ROUTE)


class Silent(Site):
    """A local app that is asked and says nothing. `finished`: its client has said the last."""

    def __init__(self, conn: Conn) -> None:
        super().__init__(conn)
        self.finished = False
        self.heard = b""

    def conn_data(self, data: Buffer) -> None:
        self._conn.consumed(len(data))
        self.heard += bytes(data)

    def conn_eof(self) -> None:
        self.finished = True


async def clients(scene: Scene, stack: contextlib.AsyncExitStack, *said: bytes, eof: bool = False) -> list[Client]:
    """They have said this to a laptop that says nothing."""
    silent: list[Silent] = []
    scene.laptop.on_open = lambda conn: silent.append(Silent(conn))
    made = []
    for each in said:
        client = await stack.enter_async_context(scene.client())
        client.writer.write(each)
        if eof:
            client.writer.write_eof()
        made.append(client)
    await until(lambda: sorted(one.heard for one in silent) == sorted(said))
    await until(lambda: all(one.finished for one in silent) or not eof)
    return made


async def is_reset(client: Client) -> None:
    with pytest.raises(ConnectionResetError):
        await client.reader.read()


async def refused(client: Client) -> None:
    """A 502 that says why, and then the end."""
    head, _, body = (await client.reader.read()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 502 ")
    assert b"tproxy-error: laptop-gone" in head
    assert body.decode().startswith("tproxy: the laptop is not connected")
    assert body.decode().endswith(LEFT)


def test_each_client_gets_what_can_be_done(play: Play) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.app(), contextlib.AsyncExitStack() as stack:
            idle = await stack.enter_async_context(scene.client())
            assert await idle.ask(PLAIN) == "uid-all 1"
            streaming = await stack.enter_async_context(scene.client())
            streaming.writer.write(PLAIN.replace(b"/", b"/stream", 1))
            await streaming.reader.readuntil(b"begun")
            said = (PLAIN, PLAIN[:20], POST, b"\0binary")
            safe, half, unsafe, raw = await clients(scene, stack, *said)
            fresh = await stack.enter_async_context(scene.client())
            await until(lambda: scene.relay.active["laptop"] == 7)
            await until(lambda: len(scene.laptop._mux.conns) == 7)
            scene.laptop.close()
            assert await safe.ask(b"") == "app 1"
            assert await half.ask(PLAIN[20:]) == "app 1"
            assert await idle.ask(PLAIN) == "app 1"
            assert await fresh.ask(PLAIN) == "app 1"
            await refused(unsafe)
            await is_reset(raw)
            await is_reset(streaming)
            assert await idle.reader.read() == b""  # its next connection is the app's own
            assert not scene.relay.active["laptop"]
        await until(lambda: not scene.relay.active["app"])

    play(scenario)


def test_so_it_is_behind_a_personal_intercept_of_somebody_else(play: Play) -> None:
    """Whose requests, and laptop, have no part in it."""
    ada = Match((HeaderMatch("x-user", "ada"),)), Choice("uid-ada", "session-ada", "shop/web-ada", "adas")

    async def scenario(scene: Scene) -> None:
        adas, hers = tunnel()
        hers.on_open = Site
        alls = scene.stream
        scene.relay.pick = lambda session: next(
            (one for one in [adas if session == "session-ada" else alls] if one and one.alive), None
        )
        async with scene.app(), contextlib.AsyncExitStack() as stack:
            idle = await stack.enter_async_context(scene.client())
            assert await idle.ask(PLAIN) == "uid-all 1"
            streaming = await stack.enter_async_context(scene.client())
            streaming.writer.write(PLAIN.replace(b"/", b"/stream", 1))
            await streaming.reader.readuntil(b"begun")
            safe, unsafe, raw = await clients(scene, stack, PLAIN, POST, b"\0binary")
            assert await idle.ask(PLAIN.replace(b"Host", b"X-User: ada\r\nHost")) == "uid-ada 1"
            scene.laptop.close()
            assert await safe.ask(b"") == "app 1"
            assert await safe.ask(PLAIN.replace(b"Host", b"X-User: ada\r\nHost")) == "uid-ada 2"
            assert await idle.ask(PLAIN) == "app 1"
            await refused(unsafe)
            await is_reset(raw)
            await is_reset(streaming)
        hers.close()

    play(scenario, route=replace(ROUTE, personal=(ada,)))


def test_or_else_it_fails(play: Play) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.app(), contextlib.AsyncExitStack() as stack:
            idle = await stack.enter_async_context(scene.client())
            assert await idle.ask(PLAIN) == "uid-all 1"
            safe, unsafe = await clients(scene, stack, PLAIN, POST)
            scene.laptop.close()
            await refused(safe)
            await refused(unsafe)
            await is_reset(idle)
            async with scene.client() as later:
                assert await later.ask(PLAIN) == "app 1"
            assert not scene.relay.active["laptop"]

    play(scenario, route=FAIL)


def test_a_client_that_has_finished_is_answered_all_the_same(play: Play) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.app(), contextlib.AsyncExitStack() as stack:
            safe, unsafe = await clients(scene, stack, PLAIN, POST, eof=True)
            scene.laptop.close()
            assert (await safe.reader.read()).endswith(b"app 1")
            await refused(unsafe)

    play(scenario)


def test_another_stream_of_the_same_laptop_has_it_then(play: Play) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.app(), contextlib.AsyncExitStack() as stack:
            [safe] = await clients(scene, stack, PLAIN)
            scene.stream, other = tunnel()
            other.on_open = Site
            scene.laptop.close()
            assert await safe.ask(b"") == "uid-all 1"
            other.close()
            assert await safe.ask(PLAIN) == "app 1"

    play(scenario)


def test_a_laptop_that_is_back_has_the_next_request(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "PAUSE_SECONDS", 20)

    async def scenario(scene: Scene) -> None:
        async with scene.app(), scene.client() as idle:
            assert await idle.ask(PLAIN) == "uid-all 1"
            scene.laptop.close()
            await until(lambda: any(splice.app.connected for splice in scene.pod._apps._splices))
            scene.stream, laptop = tunnel()
            laptop.on_open = Site
            assert await idle.ask(PLAIN) == "uid-all 1"
            laptop.close()

    play(scenario)
