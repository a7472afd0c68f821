"""Attaching and detaching in good order loses no connection."""

import asyncio
import contextlib
import resource
import socket
import time

import pytest

from tests.kernel.answering import PORT, answer, closed, serving
from tests.kernel.hammer import Hammer
from tests.kernel.namespaces import OUTSIDE_IP4, OUTSIDE_IP6, POD_IP4, POD_IP6, Namespace, PodNetwork
from tproxy.steer.port import SteeredPort, Steering

PORTS = [SteeredPort(PORT)]


@pytest.mark.parametrize("host", [POD_IP4, POD_IP6])
def test_attach_and_detach_under_load(network: PodNetwork, steering: Steering, host: str) -> None:
    async def scenario() -> None:
        with contextlib.closing(network.pod.listen("::", PORT)) as app:
            async with serving("app", [app]), Hammer(network.outside, host, workers=32) as hammer:
                for _ in range(10):
                    attachment = steering.attach(network.pod.netns, PORTS)
                    async with serving("tproxy", attachment.listeners):
                        await hammer.more("tproxy", 50)
                        attachment.stop()
                        assert await attachment.drained(5)
                        attachment.close()
                        await hammer.more("app", 50)
                        # No client can still be in the middle of a connection that was ours.
                        await hammer.more("app", 64)
            assert {result.who for result in hammer.results} == {"app", "tproxy"}

    asyncio.run(scenario())


class _HalfOpen:
    """Clients whose last packet of the handshake is held back by a filter on their side."""

    def __init__(self, place: Namespace, host: str) -> None:
        self._place = place
        self._host = host
        self._filter = "ip6tables" if ":" in host else "iptables"

    def _rule(self, action: str, port: int) -> None:
        match = ("-p", "tcp", "--sport", str(port), "--tcp-flags", "SYN,ACK", "ACK", "-j", "DROP")
        self._place.run(self._filter, action, "OUTPUT", *match)

    async def connect(self, port: int) -> socket.socket:
        self._rule("-A", port)
        return await self._place.connect(self._host, PORT, (OUTSIDE_IP6 if ":" in self._host else OUTSIDE_IP4, port))

    def let_through(self, port: int) -> None:
        self._rule("-D", port)


@pytest.mark.parametrize("host", [POD_IP4, POD_IP6])
def test_handshakes_begun_before_detach_are_waited_for(network: PodNetwork, steering: Steering, host: str) -> None:
    async def scenario() -> None:
        clients = _HalfOpen(network.outside, host)
        with contextlib.closing(network.pod.listen("::", PORT)) as app:
            attachment = steering.attach(network.pod.netns, PORTS)
            async with serving("app", [app]), serving("tproxy", attachment.listeners):
                ours = await clients.connect(40001)
                attachment.stop()
                assert not await attachment.drained(0.2)

                draining = asyncio.get_running_loop().create_task(attachment.drained(10))
                # Long enough for the drain to have taken its picture of what is in progress.
                await asyncio.wait([draining], timeout=0.1)
                apps = await clients.connect(40002)
                clients.let_through(40001)
                reader, writer = await asyncio.open_connection(sock=ours)
                writer.write(b"carries the acknowledgement")
                assert (await answer(reader)).who == "tproxy"
                assert await draining, "a handshake with the app is not waited for"
                attachment.close()
                await closed(writer)

                clients.let_through(40002)
                reader, writer = await asyncio.open_connection(sock=apps)
                writer.write(b"carries the acknowledgement")
                assert (await answer(reader)).who == "app"
                await closed(writer)

    asyncio.run(scenario())


def test_the_accept_queue_is_waited_for(network: PodNetwork, steering: Steering) -> None:
    async def scenario() -> None:
        attachment = steering.attach(network.pod.netns, PORTS)
        client = await network.outside.connect(POD_IP4, PORT)
        attachment.stop()
        assert not await attachment.drained(0.2), "nobody has accepted"
        async with serving("tproxy", attachment.listeners):
            assert await attachment.drained(5)
            reader, writer = await asyncio.open_connection(sock=client)
            assert (await answer(reader)).who == "tproxy"
            await closed(writer)

    asyncio.run(scenario())


def test_closing_ends_a_drain(network: PodNetwork, steering: Steering) -> None:
    async def scenario() -> None:
        attachment = steering.attach(network.pod.netns, PORTS)
        with await network.outside.connect(POD_IP4, PORT):
            attachment.stop()
            draining = asyncio.get_running_loop().create_task(attachment.drained(60))
            await asyncio.wait([draining], timeout=0.05)
            attachment.close()
            async with asyncio.timeout(1):
                assert not await draining

    asyncio.run(scenario())


def test_a_drain_that_cannot_look_takes_its_time(network: PodNetwork, steering: Steering) -> None:
    async def scenario() -> None:
        attachment = steering.attach(network.pod.netns, PORTS)
        attachment.stop()
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        began = time.monotonic()
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
            assert not await attachment.drained(0.1)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert time.monotonic() - began >= 0.1

    asyncio.run(scenario())
