"""What tells a node's checks from others, and lets them meet the app, against the real kernel."""

import asyncio
import contextlib
import ipaddress
import os

import pytest

from tests.kernel.answering import PORT, ask, serving
from tests.kernel.namespaces import OUTSIDE_IP4, OUTSIDE_IP6, POD_IP4, POD_IP6, PodNetwork, run
from tproxy.netns.gateways import gateways_of
from tproxy.steer.port import Counters, SteeredPort, Steering
from tproxy.steer.sock_diag import ListenerList

SOURCES = {POD_IP4: OUTSIDE_IP4, POD_IP6: OUTSIDE_IP6}


@pytest.mark.parametrize("host", SOURCES)
def test_some_sources_are_let_through_to_a_port(network: PodNetwork, steering: Steering, host: str) -> None:
    async def scenario() -> None:
        attachment = steering.attach(network.pod.netns, [SteeredPort(PORT), SteeredPort(PORT + 1)])
        async with serving("tproxy", attachment.listeners):

            async def who(port: int = PORT) -> str:
                found = await ask(network.outside, host, port)
                return found.who if found else "refused"

            assert attachment.let_through([(SOURCES[host], PORT)])
            assert await who() == "refused", "nobody listens, and the client learns it from the handshake"
            assert await who(PORT + 1) == "tproxy"
            attachment.let_through([("10.77.0.9", PORT), ("fd77::9", PORT)])
            assert await who() == "tproxy"
            assert attachment.counters()[PORT] == Counters(steered=1, passed=1)
            attachment.let_through([(f"::ffff:{SOURCES[POD_IP4]}", PORT)])
            assert await who() == ("refused" if host == POD_IP4 else "tproxy")
            attachment.stop()
            assert attachment.let_through([])

    asyncio.run(scenario())


def test_listening_ports(network: PodNetwork) -> None:
    with contextlib.ExitStack() as stack:
        listing = stack.enter_context(contextlib.closing(ListenerList(network.pod.netns)))
        assert listing.ports(()) == set()
        for host, port in (("0.0.0.0", 1001), (POD_IP4, 1002), ("::", 1003), (POD_IP6, 1004)):
            stack.enter_context(contextlib.closing(network.pod.listen(host, port)))
        for host in ("127.0.0.1", "::1"):
            stack.enter_context(contextlib.closing(network.pod.listen(host, 1005)))
        ours = stack.enter_context(contextlib.closing(network.pod.listen("::", 1006)))
        assert listing.ports(()) == {1001, 1002, 1003, 1004, 1006}
        assert listing.ports({os.fstat(ours.fileno()).st_ino}) == {1001, 1002, 1003, 1004}


def test_gateways(network: PodNetwork) -> None:
    assert gateways_of(network.pod.netns) == set()
    for family, gateway in (("-4", OUTSIDE_IP4), ("-6", OUTSIDE_IP6)):
        run("ip", "-n", network.pod.name, family, "route", "add", "default", "via", gateway)
    assert gateways_of(network.pod.netns) == {ipaddress.ip_address(one) for one in (OUTSIDE_IP4, OUTSIDE_IP6)}
