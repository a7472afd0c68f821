"""What only the sk_lookup backend does."""

import asyncio
import contextlib
import errno
import socket
import time
from pathlib import Path

import pytest

from tests.kernel.answering import CLIENT, PORT, ask, ask_upstream, serving
from tests.kernel.namespaces import POD_IP4, POD_IP6, PodNetwork, run, until
from tproxy.model.flow import Address
from tproxy.steer.port import Attachment, Counters, SteeredPort, Steering

PORTS = [SteeredPort(PORT)]


@pytest.fixture
def backend() -> str:
    return "sk_lookup"


@pytest.mark.parametrize("host", [POD_IP4, POD_IP6])
def test_syn_cookies(network: PodNetwork, steering: Steering, host: str) -> None:
    """The kernel keeps no handshake, so the packet that ends it is looked up like the one that begins it."""

    async def scenario() -> None:
        network.pod.run("sysctl", "-qw", "net.ipv4.tcp_syncookies=2")
        with contextlib.closing(network.pod.listen("::", PORT)) as app:
            attachment = steering.attach(network.pod.netns, PORTS)
            async with serving("app", [app]), serving("tproxy", attachment.listeners):
                for _ in range(20):
                    assert (await ask(network.outside, host)).who == "tproxy"
                    own = await ask_upstream(attachment, host)
                    assert own is not None
                    assert own.who == "app"

    asyncio.run(scenario())


def test_closed_listener_fails_open(network: PodNetwork, steering: Steering) -> None:
    async def scenario() -> None:
        with contextlib.closing(network.pod.listen("::", PORT)) as app:
            attachment = steering.attach(network.pod.netns, PORTS)
            for listener in attachment.listeners:
                listener.close()
            async with serving("app", [app]):
                assert [(await ask(network.outside, host)).who for host in (POD_IP4, POD_IP6)] == ["app"] * 2
            assert attachment.counters()[PORT] == Counters(no_listener=2)

    asyncio.run(scenario())


def test_nothing_is_left(network: PodNetwork, steering: Steering) -> None:
    """Kernel objects carry our name while they exist, and descriptors and links are given back."""

    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    def one_link() -> bool:
        return network.pod.state() == state

    state = network.pod.state()
    before = descriptors()
    attachment = steering.attach(network.pod.netns, PORTS)
    assert "sk_lookup" in network.pod.state()["links"]
    maps = run("bpftool", "map", "list")
    for name in ("tproxy_ports", "tproxy_listen", "tproxy_own", "tproxy_lease"):
        assert name in maps
    assert "name tproxy_lookup" in run("bpftool", "prog", "list")
    attachment.close()
    assert descriptors() == before
    asyncio.run(until(one_link))


def _upstream_soon(attachment: Attachment) -> socket.socket:
    """A connection to the app as soon as there is a port for it."""
    deadline = time.monotonic() + 5
    while True:
        try:
            return attachment.upstream(CLIENT, Address(POD_IP4, PORT))
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL) or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def test_sources_are_never_shared_and_run_out_with_an_error(network: PodNetwork, steering: Steering) -> None:
    network.pod.run("sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 40099")
    attachment = steering.attach(network.pod.netns, PORTS)
    sockets = []
    with network.pod.listen("0.0.0.0", PORT):
        with contextlib.suppress(OSError):
            while True:
                sockets.append(attachment.upstream(CLIENT, Address(POD_IP4, PORT)))
        with pytest.raises(OSError, match="Address already in use"):
            attachment.upstream(CLIENT, Address(POD_IP4, PORT))
        assert len({sock.getsockname()[1] for sock in sockets}) == len(sockets) >= 99
        for sock in sockets:
            attachment.release(sock)
        # A port in TIME_WAIT connects again from the next second on: its clock is that coarse.
        attachment.release(_upstream_soon(attachment))
