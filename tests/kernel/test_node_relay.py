"""The relay of one pod against the real kernel, in this process: limits, draining, and the way to the app."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop
from tproxy_node.desired import Route
from tproxy_node.plan import PodRef
from tproxy_node.relay import Limits, PodRelay, Relay

from tests.kernel.answering import PORT, ask, endpoint, serving
from tests.kernel.namespaces import OUTSIDE_IP4, OUTSIDE_IP6, POD_IP4, POD_IP6, PodNetwork, until
from tests.kernel.scenes import open_connection
from tests.unit.node.streams import tunnel
from tproxy.steer.port import SteeredPort, Steering
from tproxy.tunnel.conn import Conn
from tproxy.tunnel.endpoint import Endpoint

ROUTE = Route("uid-web", "uid-alice", "shop/web-1a2b")
OTHER = Route("uid-other", "uid-alice", "shop/web-ffff")


class Echo:
    """What the laptop serves: a greeting, then what it hears."""

    def __init__(self, conn: Conn) -> None:
        self._conn = conn
        conn.sink = self
        conn.accept()
        conn.write(b"laptop here there\n")

    def conn_opened(self) -> None: ...
    def conn_pause(self) -> None: ...
    def conn_resume(self) -> None: ...
    def conn_reset(self, reason: object, detail: str) -> None: ...

    def conn_data(self, data: bytes) -> None:
        self._conn.write(data)
        self._conn.consumed(len(data))

    def conn_eof(self) -> None:
        self._conn.write_eof()


class Scene:
    """A relay for one pod, and one session with a stream."""

    def __init__(self, network: PodNetwork, steering: Steering, limits: Limits, cgroup: Path | None = None) -> None:
        self.network = network
        self.stream: Endpoint | None
        self.stream, self.laptop = tunnel()
        self.laptop.on_open = Echo
        self.relay = Relay(lambda _: self.stream if self.stream and self.stream.alive else None, limits)
        self.attachment = steering.attach(network.pod.netns, (), cgroup)
        self.pod = PodRelay(self.relay, PodRef("shop", "web-1", "uid-1"), self.attachment, {PORT: ROUTE})

    async def who(self, host: str = POD_IP4) -> str:
        found = await ask(self.network.outside, host)
        return found.who if found else "refused"


Scenario = Callable[[Scene], Awaitable[None]]
Play = Callable[..., None]


@pytest.fixture
def play(network: PodNetwork, steering: Steering) -> Play:
    """Runs a scenario on the event loop that the daemon uses."""

    def run(scenario: Scenario, limits: Limits | None = None, cgroup: Path | None = None) -> None:
        async def whole() -> None:
            scene = Scene(network, steering, limits or Limits(), cgroup)
            try:
                async with asyncio.timeout(20):
                    await scene.pod.serve()
                    await scenario(scene)
                    scene.pod.abandon()
                    # Whatever became of them: none is remembered as open, and each once.
                    await until(lambda: not scene.relay.flows.live)
                    numbers = [flow.number for flow in scene.relay.flows.recent]
                    assert len(numbers) == len(set(numbers))
            finally:
                scene.pod.abandon()
                scene.laptop.close()
                await scene.relay.close()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(whole())

    return run


@contextlib.asynccontextmanager
async def app(network: PodNetwork, hosts: Iterable[str] = (POD_IP4, POD_IP6)) -> AsyncIterator[None]:
    listeners = [network.pod.listen(host, PORT) for host in hosts]
    try:
        async with serving("app", listeners):
            yield
    finally:
        for listener in listeners:
            listener.close()


def test_without_a_stream_the_app_serves_as_if_nobody_were_between(play: Play) -> None:
    """The relay reaches the app at exactly the address its client meant."""

    async def scenario(scene: Scene) -> None:
        scene.stream = None
        async with app(scene.network):
            for host in (POD_IP4, POD_IP6):
                found = await ask(scene.network.outside, host)
                assert found is not None
                assert found.who == "app"
                assert found.destination == endpoint(host, PORT)
        assert scene.relay.opened == {"app_no_tunnel": 2}
        assert scene.relay.verdicts()["own"] == 2
        await scene.relay.idle()

    play(scenario)


def test_without_a_stream_and_without_the_app_clients_are_reset(play: Play) -> None:
    async def scenario(scene: Scene) -> None:
        scene.stream = None
        with pytest.raises(ConnectionResetError):
            await scene.who()
        await scene.relay.idle()
        assert scene.relay.resets == {"app": 1}

    play(scenario)


def test_streams_that_die_reset_their_connections(play: Play) -> None:
    async def scenario(scene: Scene) -> None:
        reader, writer = await open_connection(scene.network.outside)
        assert scene.stream is not None
        scene.stream.close("gone")
        with pytest.raises(ConnectionResetError):
            await reader.read()
        await scene.relay.idle()
        assert scene.relay.resets == {"tunnel-lost": 1}
        async with app(scene.network):
            assert await scene.who() == "app"
        writer.close()

    play(scenario)


def test_a_session_over_its_limit_is_served_by_the_app(play: Play) -> None:
    async def scenario(scene: Scene) -> None:
        async with app(scene.network):
            first = await open_connection(scene.network.outside)
            second = await open_connection(scene.network.outside)
            assert await scene.who() == "app"
            assert scene.relay.opened["app_limit"] == 1
            first[1].close()
            second[1].close()
            await scene.relay.idle()
            assert await scene.who() == "laptop"

    play(scenario, Limits(per_session=2))


def test_a_full_node_tells_the_kernel_to_steer_nothing(play: Play) -> None:
    async def scenario(scene: Scene) -> None:
        async with app(scene.network):
            opened = [await open_connection(scene.network.outside) for _ in range(10)]
            assert scene.relay.full
            assert not scene.attachment.ports
            steered = scene.relay.verdicts()["steered"]
            assert await scene.who() == "app"
            assert scene.relay.verdicts()["steered"] == steered, "not even through us"
            for _, writer in opened[:2]:
                writer.close()
            while scene.relay.full:  # noqa: ASYNC110 - the closes travel through the kernel
                await asyncio.sleep(0.002)
            assert await scene.who() == "laptop"
            for _, writer in opened:
                writer.close()
            await scene.relay.idle()

    play(scenario, Limits(total=10))


def test_connections_of_a_left_intercept_are_drained(play: Play) -> None:
    async def scenario(scene: Scene) -> None:
        scene.pod.set_routes({PORT: replace(ROUTE, drain_seconds=1)})
        async with app(scene.network):
            reader, writer = await open_connection(scene.network.outside)
            scene.pod.stop()
            assert await scene.who() == "app"
            writer.write(b"go on\n")
            assert await reader.readline() == b"go on\n"
            await scene.pod.finish()
            with pytest.raises(ConnectionResetError):
                async with asyncio.timeout(2):
                    await reader.read()
            writer.close()
        await scene.relay.idle()

    play(scenario)


def test_only_what_lost_its_intercept_is_drained(play: Play) -> None:
    async def scenario(scene: Scene) -> None:
        scene.pod.set_routes({PORT: ROUTE, PORT + 1: replace(OTHER, drain_seconds=0)})
        kept = await open_connection(scene.network.outside)
        drained = await open_connection(scene.network.outside, PORT + 1)
        scene.pod.set_routes({PORT: ROUTE})
        assert scene.attachment.ports == {SteeredPort(PORT)}
        with pytest.raises(ConnectionResetError):
            async with asyncio.timeout(2):
                await drained[0].read()
        kept[1].write(b"untouched\n")
        assert await kept[0].readline() == b"untouched\n"
        for _, writer in (kept, drained):
            writer.close()

    play(scenario)


def test_what_was_under_way_at_detach_is_served_by_the_app(play: Play) -> None:
    """Connections in the accept queue when the link goes are ours to bring home."""

    async def scenario(scene: Scene) -> None:
        async with app(scene.network):
            # The kernel completes these handshakes before the event loop has had a chance to accept.
            waiting = [connected_meanwhile(scene.network) for _ in range(20)]
            scene.pod.stop()
            await scene.pod.finish()
            for sock in waiting:
                reader, writer = await asyncio.open_connection(sock=sock)
                assert (await reader.readline()).startswith(b"app ")
                writer.close()
            await scene.relay.idle()
        assert scene.relay.opened["app_left"] == 20

    play(scenario)


def connected_meanwhile(network: PodNetwork) -> socket.socket:
    """A connection made without giving the event loop a turn."""
    sock = network.outside.netns.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.connect((POD_IP4, PORT))
    sock.setblocking(False)
    return sock


def test_a_pod_that_is_gone_takes_its_connections_along(play: Play) -> None:
    async def scenario(scene: Scene) -> None:
        to_laptop = await open_connection(scene.network.outside)
        async with app(scene.network):
            stream, scene.stream = scene.stream, None
            to_app = await open_connection(scene.network.outside)
            scene.stream = stream
            scene.pod.abandon()
            for reader, writer in (to_laptop, to_app):
                with pytest.raises(ConnectionResetError):
                    await reader.read()
                writer.close()
        await scene.relay.idle()

        def laptop_knows() -> bool:
            return not scene.laptop.stats.connections

        await until(laptop_knows)

    play(scenario)


@pytest.mark.parametrize(("host", "outside"), [(POD_IP4, OUTSIDE_IP4), (POD_IP6, OUTSIDE_IP6)])
def test_requests_say_who_and_where(play: Play, host: str, outside: str) -> None:
    async def scenario(scene: Scene) -> None:
        opened: list[Conn] = []
        scene.laptop.on_open = lambda conn: (opened.append(conn), Echo(conn))[0]
        assert await scene.who(host) == "laptop"
        request = opened[0].request
        assert (request.destination.host, request.destination.port) == (host, PORT)
        assert request.source is not None
        assert request.source.host == outside
        assert (request.intercept, request.pod, request.protocol) == ("uid-web", "shop/web-1", "tcp")

    play(scenario)
