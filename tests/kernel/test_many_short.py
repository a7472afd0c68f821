"""Short connections through the relay never run out of ports, whoever closes first."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator

import pytest

from tests.kernel.answering import CLIENT, PORT, ask
from tests.kernel.namespaces import OUTSIDE_IP4, POD_IP4, POD_IP6, PodNetwork, until
from tests.kernel.test_node_relay import Play, Scene, app, play
from tproxy.model.flow import Address
from tproxy.steer.port import Steering

__all__ = ["play"]

PORTS = (40000, 40099)
CONNECTIONS = 10 * (PORTS[1] - PORTS[0])
AT_A_TIME = 8
BUSY = 50
RESTED_SECONDS = 0.02


@contextlib.asynccontextmanager
async def closing_app(network: PodNetwork, host: str) -> AsyncIterator[None]:
    """An app that has the last word."""

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"app here there\n")
        writer.close()
        await writer.wait_closed()

    with contextlib.closing(network.pod.listen(host, PORT)) as listener:
        server = await asyncio.start_server(greet, sock=listener.dup())
        try:
            yield
        finally:
            server.close()


@pytest.mark.parametrize("host", [POD_IP4, POD_IP6])
@pytest.mark.parametrize("first", ["client", "app"])
def test_many_more_than_there_are_ports(play: Play, host: str, first: str) -> None:
    """A pod whose clients are many and whose ports are few."""

    async def scenario(scene: Scene) -> None:
        scene.stream = None
        pod = scene.network.pod
        pod.run("sysctl", "-qw", f"net.ipv4.ip_local_port_range={PORTS[0]} {PORTS[1]}")
        left = iter(range(CONNECTIONS))
        answers: list[str] = []

        async def worker() -> None:
            for _ in left:
                found = await ask(scene.network.outside, host)
                answers.append(found.who if found else "refused")

        async with app(scene.network, [host]) if first == "client" else closing_app(scene.network, host):
            await asyncio.gather(*(worker() for _ in range(AT_A_TIME)))
            await scene.relay.idle()
            assert answers == ["app"] * CONNECTIONS
            assert scene.relay.resets == {}
            # Nor are any taken from the pod's own clients: those of others are served from the same ports.
            if ":" not in host:
                with contextlib.closing(scene.network.outside.listen(OUTSIDE_IP4, PORT)):
                    for _ in range(20):
                        (await pod.connect(OUTSIDE_IP4, PORT)).close()

    play(scenario)


@pytest.mark.parametrize("host", [POD_IP4, POD_IP6])
def test_ports_that_are_not_free_yet_are_no_obstacle(network: PodNetwork, steering: Steering, host: str) -> None:
    """The event loop closes its sockets when it comes to it, which takes a while when it has much to do."""

    async def scenario() -> None:
        attachment = steering.attach(network.pod.netns, [])
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as stack:
            stack.callback(attachment.close)
            listener = stack.enter_context(contextlib.closing(network.pod.listen(host, PORT)))

            async def connect() -> socket.socket:
                ours = attachment.upstream(CLIENT, Address(host, PORT))
                await loop.sock_connect(ours, (host, PORT))
                stack.enter_context((await loop.sock_accept(listener))[0])
                return ours

            busy = [await connect() for _ in range(BUSY)]
            for ours in busy:
                stack.enter_context(ours.dup())
                attachment.release(ours)
            rested = time.monotonic() + RESTED_SECONDS
            await until(lambda: time.monotonic() > rested)
            for ours in [await connect() for _ in range(BUSY)]:
                attachment.release(ours)

    asyncio.run(scenario())
