"""What the kernel is seen to hold of ours, by whoever looks, while the holder lives, hangs and after it."""

import asyncio
import contextlib
import socket

from tests.kernel.answering import PORT, Answer, ask, serving
from tests.kernel.namespaces import POD_IP4, PodNetwork
from tproxy.steer import held
from tproxy.steer.port import SteeredPort, Steering
from tproxy.steer.sock_diag import listening, overflows

OTHER = PORT + 1


def holding(network: PodNetwork, backend: str) -> list[held.Held]:
    netns = network.pod.netns
    return held.by_links(netns.id.inode) if backend == "sk_lookup" else held.by_rules(netns)


def test_an_attachment_as_the_kernel_has_it(network: PodNetwork, backend: str, steering: Steering) -> None:
    async def scenario() -> None:
        netns = network.pod.netns
        attachment = steering.attach(netns, [SteeredPort(PORT), SteeredPort(OTHER)])
        try:
            async with serving("ours", attachment.listeners):
                asked = await ask(network.outside, POD_IP4)
                assert isinstance(asked, Answer)
                assert asked.who == "ours"
            (one,) = holding(network, backend)
            assert (one.backend, one.netns, one.protocol, one.attached) == (backend, netns.id.inode, "TCP", True)
            assert one.ports.keys() == {SteeredPort(PORT), SteeredPort(OTHER)}
            assert one.ports[SteeredPort(PORT)].steered == 1
            assert one.ports[SteeredPort(OTHER)].steered == 0
            assert one.lease is not None
            assert 50 < one.lease <= 61
            if one.listeners is not None:
                assert one.listeners == {cookie(sock) for sock in attachment.listeners}
            steering.renew(-1)
            (one,) = holding(network, backend)
            assert one.lease is not None
            assert one.lease < 0
        finally:
            attachment.close()
        deadline = asyncio.get_running_loop().time() + 10
        while holding(network, backend):
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.01)

    asyncio.run(scenario())


def cookie(sock: socket.socket) -> int:
    return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, 57, 8), "little")  # SO_COOKIE


def test_udp_is_told_apart(network: PodNetwork, backend: str, steering: Steering) -> None:
    attachment = steering.attach(network.pod.netns, [])
    datagrams = attachment.datagrams()
    try:
        datagrams.set_ports([SteeredPort(PORT, "UDP")])
        found = {one.protocol: one for one in holding(network, backend)}
        assert found["UDP"].ports.keys() == {SteeredPort(PORT, "UDP")}
        assert found["TCP"].ports == {}
    finally:
        datagrams.close()
        attachment.close()


def test_nothing_of_ours_is_nothing(network: PodNetwork) -> None:
    assert held.by_links(network.pod.netns.id.inode) == []
    assert held.by_rules(network.pod.netns) == []


def test_accept_queues_and_their_overflow(network: PodNetwork) -> None:
    """With a backlog of 1 two connections fit, one more than the number says; the next is dropped, and counted."""
    app = network.pod.listen("0.0.0.0", PORT)
    app.listen(1)
    clients = []
    try:
        before = overflows(network.pod.netns)
        for _ in range(2):
            client = network.outside.netns.socket(socket.AF_INET, socket.SOCK_STREAM)
            clients.append(client)
            client.settimeout(5)
            client.connect((POD_IP4, PORT))
        (one,) = [one for one in listening(network.pod.netns) if one.port == PORT]
        assert (one.host, one.queue, one.limit, one.overflowing) == ("0.0.0.0", 2, 1, True)
        late = network.outside.netns.socket(socket.AF_INET, socket.SOCK_STREAM)
        clients.append(late)
        late.settimeout(0.2)
        with contextlib.suppress(TimeoutError):
            late.connect((POD_IP4, PORT))
        assert overflows(network.pod.netns) > before
    finally:
        for client in clients:
            client.close()
        app.close()
