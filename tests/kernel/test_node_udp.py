"""The relay of one pod's UDP against the real kernel, in this process."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tproxy_node import udp as module

from tests.kernel.namespaces import OUTSIDE_IP4, OUTSIDE_IP6, POD_IP4, POD_IP6, until
from tests.kernel.test_datagrams import PORT, arrives, says, udp
from tests.kernel.test_node_relay import OTHER, ROUTE, Play, Scene, play
from tproxy.model.flow import Address, FlowKind, OpenRequest, ResetReason
from tproxy.tunnel.conn import Conn

__all__ = ["play"]


class Laptop:
    """Answers each datagram with `laptop:` and what it was."""

    def __init__(self, scene: Scene) -> None:
        self.opened: list[Conn] = []
        self.refuse = False
        self.ended: list[Conn] = []
        scene.laptop.on_open = self._open

    def _open(self, conn: Conn) -> None:
        self.opened.append(conn)
        conn.sink = Sink(self, conn)
        if self.refuse:
            conn.reset(ResetReason.REFUSED, "nobody listens")
            return
        conn.accept()
        conn.on_datagram = lambda payload: conn.write_datagram(b"laptop:" + payload) or None


class Sink:
    def __init__(self, laptop: Laptop, conn: Conn) -> None:
        self._laptop, self._conn = laptop, conn

    def conn_opened(self) -> None: ...
    def conn_pause(self) -> None: ...
    def conn_resume(self) -> None: ...
    def conn_data(self, data: object) -> None: ...
    def conn_eof(self) -> None: ...

    def conn_reset(self, reason: ResetReason, detail: str) -> None:
        self._laptop.ended.append(self._conn)


@asynccontextmanager
async def app(scene: Scene) -> AsyncIterator[list[bytes]]:
    """The app's socket on every address, which says `app`; and what it heard."""
    heard: list[bytes] = []

    def answer() -> None:
        with contextlib.suppress(BlockingIOError):
            payload, client = sock.recvfrom(65535)
            heard.append(payload)
            sock.sendto(b"app", client)

    sock = udp(scene.network.pod, "::", PORT)
    asyncio.get_running_loop().add_reader(sock.fileno(), answer)
    try:
        yield heard
    finally:
        asyncio.get_running_loop().remove_reader(sock.fileno())
        sock.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SWEEP_SECONDS", 0.05)
    monkeypatch.setattr(module, "ONCE_SECONDS", 0.2)
    monkeypatch.setattr(module, "STREAM_SECONDS", 0.8)


def test_to_the_laptop_and_back(play: Play) -> None:
    async def scenario(scene: Scene) -> None:
        Laptop(scene)
        async with app(scene) as heard:
            scene.pod.udp.set_routes({PORT: ROUTE})
            for host in (POD_IP4, POD_IP6):
                for size in (0, 1, 1473, 9000):
                    assert await says(scene.network.outside, host, bytes(size)) == b"laptop:" + bytes(size)
            assert heard == []
            scene.pod.udp.set_routes({})
            assert await says(scene.network.outside, POD_IP4) == b"app"
        assert scene.relay.opened == {"udp": 8}
        assert scene.relay.datagrams == {"received": 8, "answered": 8}
        assert scene.relay.verdicts()["steered"] == 8

    play(scenario)


@pytest.mark.parametrize(("host", "outside"), [(POD_IP4, OUTSIDE_IP4), (POD_IP6, OUTSIDE_IP6)])
def test_a_flow_is_a_client_and_where_it_sends_to(play: Play, host: str, outside: str) -> None:
    async def scenario(scene: Scene) -> None:
        laptop = Laptop(scene)
        scene.pod.udp.set_routes({PORT: ROUTE})
        with udp(scene.network.outside, outside, 40404) as client:
            for number in range(5):
                client.sendto(bytes([number]), (host, PORT))
                assert (await arrives(client))[0] == b"laptop:" + bytes([number])
        assert [conn.request for conn in laptop.opened] == [
            OpenRequest(
                FlowKind.INBOUND,
                Address(host, PORT),
                Address(outside, 40404),
                ROUTE.intercept,
                "shop/web-1",
                "udp",
            )
        ]
        assert scene.relay.by_session == {ROUTE.session: 1}

    play(scenario)


@pytest.mark.parametrize(("host", "outside"), [(POD_IP4, OUTSIDE_IP4), (POD_IP6, OUTSIDE_IP6)])
@pytest.mark.usefixtures("quick")
def test_idle_flows_end_those_that_talked_later(play: Play, host: str, outside: str) -> None:
    async def scenario(scene: Scene) -> None:
        laptop = Laptop(scene)
        scene.pod.udp.set_routes({PORT: ROUTE})
        with udp(scene.network.outside, outside) as stream:
            for _ in range(2):
                stream.sendto(b"?", (host, PORT))
                await arrives(stream)
            await says(scene.network.outside, host)
            first, second = laptop.opened
            await until(lambda: second in laptop.ended)
            assert first not in laptop.ended
            await until(lambda: first in laptop.ended)
        await scene.relay.idle()

    play(scenario)


def test_the_quietest_flow_makes_room(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FLOWS", 3)

    async def scenario(scene: Scene) -> None:
        laptop = Laptop(scene)
        scene.pod.udp.set_routes({PORT: ROUTE})
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(udp(scene.network.outside, OUTSIDE_IP4)) for _ in range(4)]
            for number in (0, 1, 2, 0, 3):
                clients[number].sendto(b"?", (POD_IP4, PORT))
                await arrives(clients[number])
            await until(lambda: len(laptop.ended) == 1)
            assert laptop.ended == [laptop.opened[1]]
        assert scene.relay.by_session == {ROUTE.session: 3}

    play(scenario)


@pytest.mark.parametrize("host", [POD_IP4, POD_IP6])
def test_a_refusal_reaches_the_client(play: Play, host: str) -> None:
    """As the pod's own kernel would tell it."""

    async def scenario(scene: Scene) -> None:
        laptop = Laptop(scene)
        laptop.refuse = True
        async with app(scene):
            scene.pod.udp.set_routes({PORT: ROUTE})
            with udp(scene.network.outside, "::" if ":" in host else "0.0.0.0") as client:
                client.connect((host, PORT))
                client.send(b"?")
                with pytest.raises(ConnectionRefusedError):
                    async with asyncio.timeout(2):
                        await asyncio.get_running_loop().sock_recv(client, 100)
        await scene.relay.idle()
        assert scene.relay.resets == {"refused": 1}

    play(scenario)


def test_after_leaving_answers_still_arrive(play: Play) -> None:
    async def scenario(scene: Scene) -> None:
        laptop = Laptop(scene)
        async with app(scene) as heard:
            scene.pod.udp.set_routes({PORT: ROUTE})
            with udp(scene.network.outside, OUTSIDE_IP4) as client:
                client.sendto(b"1", (POD_IP4, PORT))
                await arrives(client)
                client.sendto(b"2", (POD_IP4, PORT))
                scene.pod.stop()
                client.sendto(b"3", (POD_IP4, PORT))
                assert {(await arrives(client))[0] for _ in range(2)} == {b"laptop:2", b"app"}
                assert heard == [b"3"]
                await scene.pod.finish()
            await until(lambda: laptop.ended == laptop.opened)
        await scene.relay.idle()

    play(scenario)


def test_another_intercept_gets_flows_of_its_own(play: Play) -> None:
    async def scenario(scene: Scene) -> None:
        laptop = Laptop(scene)
        scene.pod.udp.set_routes({PORT: ROUTE})
        with udp(scene.network.outside, OUTSIDE_IP4) as client:
            for route in (ROUTE, OTHER):
                scene.pod.udp.set_routes({PORT: route})
                client.sendto(b"?", (POD_IP4, PORT))
                await arrives(client)
        assert [conn.request.intercept for conn in laptop.opened] == [ROUTE.intercept, OTHER.intercept]

    play(scenario)


def test_without_a_tunnel_datagrams_are_dropped(play: Play) -> None:
    """For the moment that it takes to give the port back."""

    async def scenario(scene: Scene) -> None:
        scene.pod.udp.set_routes({PORT: ROUTE})
        scene.stream = None
        with udp(scene.network.outside, OUTSIDE_IP4) as client:
            client.sendto(b"?", (POD_IP4, PORT))
            await until(lambda: scene.relay.datagrams["dropped"] == 1)

    play(scenario)


def test_only_pods_with_udp_have_its_sockets(play: Play) -> None:
    async def scenario(scene: Scene) -> None:
        def sockets() -> str:
            return scene.network.pod.run("ss", "-Huanw")

        assert sockets() == ""
        scene.pod.udp.set_routes({PORT: ROUTE})
        assert sockets() != ""
        scene.pod.stop()
        await until(lambda: sockets() == "")

    play(scenario)


def test_sockets_of_the_app_that_are_connected_keep_what_is_theirs(play: Play, backend: str) -> None:
    """TPROXY finds the app's socket as well, but drops what it may not give to a transparent one."""

    async def scenario(scene: Scene) -> None:
        Laptop(scene)
        scene.pod.udp.set_routes({PORT: ROUTE})
        peer = udp(scene.network.outside, OUTSIDE_IP4)
        theirs = udp(scene.network.pod, POD_IP4, PORT)
        with peer, theirs:
            theirs.connect(peer.getsockname())
            peer.sendto(b"?", (POD_IP4, PORT))
            if backend == "sk_lookup":
                assert (await arrives(theirs))[0] == b"?"
            else:
                with pytest.raises(TimeoutError):
                    await arrives(theirs, 0.3)
            assert await says(scene.network.outside, POD_IP4) == b"laptop:?"

    play(scenario)


def test_no_family_is_an_error_of_its_own(play: Play) -> None:
    """A namespace without IPv6 has IPv4 all the same."""

    async def scenario(scene: Scene) -> None:
        Laptop(scene)
        scene.network.pod.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
        scene.pod.udp.set_routes({PORT: ROUTE})
        assert await says(scene.network.outside, POD_IP4) == b"laptop:?"
        assert socket.AF_INET6 not in {one.family for one in scene.attachment.datagrams().receivers}

    play(scenario)
