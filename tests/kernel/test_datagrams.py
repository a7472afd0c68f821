"""UDP is steered to us and answered from where it was sent to; the app gets it in every doubt. Both backends."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.kernel.answering import ask, serving
from tests.kernel.namespaces import OUTSIDE_IP4, POD_IP4, POD_IP6, Namespace, PodNetwork, family_of, until
from tests.kernel.test_death import holder
from tproxy.steer.datagrams import receive
from tproxy.steer.port import Counters, Datagrams, SteeredPort, Steering

PORT = 8080
UDP = SteeredPort(PORT, "UDP")


def udp(place: Namespace, host: str, port: int = 0) -> socket.socket:
    """A non-blocking UDP socket bound in a namespace."""
    sock = place.netns.socket(family_of(host), socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind((host, port))
    return sock


async def arrives(sock: socket.socket, seconds: float = 2) -> tuple[bytes, Any]:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(sock.fileno(), readable.set)  # uvloop has no sock_recvfrom
    try:
        async with asyncio.timeout(seconds):
            while True:
                with contextlib.suppress(BlockingIOError):
                    return sock.recvfrom(65535)
                readable.clear()
                await readable.wait()
    finally:
        loop.remove_reader(sock.fileno())


class Echo:
    """Answers as the relay does, with the payload behind `us:`; and an app that answers `app`."""

    def __init__(self, network: PodNetwork, datagrams: Datagrams, app: str) -> None:
        self.datagrams = datagrams
        self.answers = datagrams.answers()
        self._app = udp(network.pod, app, PORT)
        self.app_heard: list[bytes] = []
        self._readers = [*datagrams.receivers, self._app]

    def _ours(self, sock: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while (question := receive(sock)) is not None:
                assert self.answers.send(b"us:" + question.payload, question)

    def _theirs(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                payload, client = self._app.recvfrom(65535)
                self.app_heard.append(payload)
                self._app.sendto(b"app", client)

    def __enter__(self) -> "Echo":
        loop = asyncio.get_running_loop()
        for receiver in self.datagrams.receivers:
            loop.add_reader(receiver, self._ours, receiver)
        loop.add_reader(self._app, self._theirs)
        return self

    def __exit__(self, *_: object) -> None:
        for sock in self._readers:
            asyncio.get_running_loop().remove_reader(sock)
        self._app.close()
        self.answers.close()


async def says(place: Namespace, host: str, payload: bytes = b"?", seconds: float = 2) -> bytes:
    """The answer that a client gets, and only if it comes from where it asked."""
    with udp(place, "::" if ":" in host else "0.0.0.0") as sock:
        sock.sendto(payload, (host, PORT))
        answer, sender = await arrives(sock, seconds)
        assert sender[:2] == (host, PORT)
        return answer


@pytest.fixture
def datagrams(network: PodNetwork, steering: Steering) -> Iterator[Datagrams]:
    found = steering.attach(network.pod.netns, ()).datagrams()
    yield found
    found.close()


PLACES = [
    (POD_IP4, "outside"),
    (POD_IP6, "outside"),
    (POD_IP4, "pod"),
    (POD_IP6, "pod"),
    ("127.0.0.1", "pod"),
    ("::1", "pod"),
]


@pytest.mark.parametrize(("host", "place"), PLACES)
@pytest.mark.parametrize("any_address", [True, False])
def test_steered_and_answered(
    network: PodNetwork, datagrams: Datagrams, host: str, place: str, any_address: bool
) -> None:
    async def scenario() -> None:
        client = network.outside if place == "outside" else network.pod
        with Echo(network, datagrams, ("::" if ":" in host else "0.0.0.0") if any_address else host):
            assert await says(client, host) == b"app"
            datagrams.set_ports([UDP])
            # Up to what jumbo frames carry, and beyond what the link does: fragments, and odd lengths.
            for size in (0, 1, 1471, 1472, 1473, 9000, 9001):
                payload = bytes(number % 251 for number in range(size))
                assert await says(client, host, payload) == b"us:" + payload
            assert datagrams.counters() == {PORT: Counters(steered=7)}
            datagrams.set_ports([])
            assert await says(client, host) == b"app"

    asyncio.run(scenario())


def test_tcp_of_the_same_number_stays_with_the_app(network: PodNetwork, steering: Steering) -> None:
    async def scenario() -> None:
        attachment = steering.attach(network.pod.netns, [SteeredPort(8081)])
        datagrams = attachment.datagrams()
        with contextlib.closing(network.pod.listen("0.0.0.0", PORT)) as app, Echo(network, datagrams, POD_IP4):
            async with serving("app", [app]), serving("tproxy", attachment.listeners):
                datagrams.set_ports([UDP])
                assert await says(network.outside, POD_IP4) == b"us:?"
                assert (await ask(network.outside, POD_IP4, PORT)).who == "app"
                # Nor does TCP's end end UDP.
                assert (await ask(network.outside, POD_IP4, 8081)).who == "tproxy"
                attachment.stop()
                assert await says(network.outside, POD_IP4) == b"us:?"
        datagrams.close()

    asyncio.run(scenario())


def test_the_lease_is_for_datagrams_too(network: PodNetwork, steering: Steering, datagrams: Datagrams) -> None:
    async def scenario() -> None:
        with Echo(network, datagrams, "0.0.0.0"):
            datagrams.set_ports([UDP])
            assert await says(network.outside, POD_IP4) == b"us:?"
            steering.renew(0)
            assert await says(network.outside, POD_IP4) == b"app"
            steering.renew(60)
            assert await says(network.outside, POD_IP4) == b"us:?"
        assert datagrams.counters() == {PORT: Counters(steered=2, lease_expired=1)}

    asyncio.run(scenario())


def test_the_app_gets_datagrams_again_at_once(network: PodNetwork, datagrams: Datagrams) -> None:
    """Of one client, too, that goes on asking from the same port."""

    async def scenario() -> None:
        with Echo(network, datagrams, "0.0.0.0") as echo, udp(network.outside, OUTSIDE_IP4) as client:
            datagrams.set_ports([UDP])
            client.sendto(b"1", (POD_IP4, PORT))
            assert (await arrives(client))[0] == b"us:1"
            client.sendto(b"2", (POD_IP4, PORT))
            datagrams.stop()
            client.sendto(b"3", (POD_IP4, PORT))
            # What had come before is still ours to answer.
            assert sorted([(await arrives(client))[0], (await arrives(client))[0]]) == [b"app", b"us:2"]
            assert echo.app_heard == [b"3"]

    asyncio.run(scenario())


@pytest.mark.parametrize("host", [POD_IP4, POD_IP6])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_the_holder_dies_or_hangs(network: PodNetwork, backend: str, host: str, number: signal.Signals) -> None:
    async def scenario() -> None:
        async def answered_by(who: bytes, seconds: float) -> None:
            async with asyncio.timeout(seconds):
                while True:
                    with contextlib.suppress(TimeoutError):
                        if await says(network.outside, host, seconds=0.1) == who:
                            return

        def as_before() -> bool:
            return network.pod.state() == before

        app = udp(network.pod, "::", PORT)
        asyncio.get_running_loop().add_reader(app, lambda: app.sendto(b"app", app.recvfrom(100)[1]))
        before = network.pod.state()
        with contextlib.closing(app), holder(backend, network.pod.path) as process:
            await answered_by(b"tproxy", 2)
            os.kill(process.pid, number)
            # ipset counts a lease in whole seconds: 2 instead of 1.5.
            await answered_by(b"app", 3)
            if number == signal.SIGKILL:
                await until(as_before)
            asyncio.get_running_loop().remove_reader(app)

    asyncio.run(scenario())


def test_nothing_is_left(network: PodNetwork, steering: Steering) -> None:
    before = network.pod.state(), network.pod.run("ss", "-Huanw")
    attachment = steering.attach(network.pod.netns, ())
    datagrams = attachment.datagrams()
    datagrams.set_ports([UDP])
    answers = datagrams.answers()
    assert network.pod.state() != before[0]
    answers.close()
    datagrams.close()
    attachment.close()

    def as_before() -> bool:
        return (network.pod.state(), network.pod.run("ss", "-Huanw")) == before

    asyncio.run(until(as_before))


def test_the_newest_takes_over(network: PodNetwork, steering: Steering, datagrams: Datagrams) -> None:
    async def scenario() -> None:
        second = steering.attach(network.pod.netns, ()).datagrams()
        datagrams.set_ports([UDP])
        with Echo(network, second, "0.0.0.0"):
            assert await says(network.outside, POD_IP4) == b"app"
            second.set_ports([UDP])
            assert await says(network.outside, POD_IP4) == b"us:?"
        second.close()

    asyncio.run(scenario())
