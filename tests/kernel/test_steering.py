"""What clients and apps see of steering, on the real kernel."""

import asyncio
import contextlib
import socket
import struct
import time

import pytest

from tests.kernel.answering import CLIENT, PORT, Answer, answer, ask, ask_upstream, closed, endpoint, serving
from tests.kernel.backends import BACKENDS, attachments_in
from tests.kernel.namespaces import (
    OUTSIDE_IP4,
    OUTSIDE_IP6,
    POD_IP4,
    POD_IP6,
    Namespace,
    Namespaces,
    PodNetwork,
)
from tproxy.model.flow import Address
from tproxy.steer.port import Counters, SteeredPort, Steering

PORTS = [SteeredPort(PORT)]
DESTINATIONS = ("127.0.0.1", POD_IP4, "::1", POD_IP6)
SOURCES = {POD_IP4: OUTSIDE_IP4, POD_IP6: OUTSIDE_IP6}


async def ask_everywhere(network: PodNetwork) -> dict[tuple[str, str], Answer | None]:
    """Who answers, by client place and destination, at every destination that the place can mean."""
    places = [("inside", network.pod, host) for host in DESTINATIONS]
    places += [("outside", network.outside, host) for host in (POD_IP4, POD_IP6)]
    return {(name, host): await ask(place, host) for name, place, host in places}


def who(answers: dict[tuple[str, str], Answer | None]) -> dict[tuple[str, str], str | None]:
    return {key: found.who if found else None for key, found in answers.items()}


@pytest.mark.parametrize(
    ("host", "only_ip6"),
    [
        ("127.0.0.1", False),
        (POD_IP4, False),
        ("0.0.0.0", False),
        ("::1", True),
        (POD_IP6, True),
        ("::", True),
        ("::", False),
    ],
)
def test_every_way_to_listen(network: PodNetwork, steering: Steering, host: str, only_ip6: bool) -> None:
    """Steered: we get all of it, and know who meant what. Not steered, and for ourselves: as without us."""

    async def scenario() -> None:
        app = network.pod.listen(host, PORT, only_ip6=only_ip6)
        async with serving("app", [app]):
            before = await ask_everywhere(network)
            assert "app" in who(before).values()

            steering.renew(0)
            attachment = steering.attach(network.pod.netns, PORTS)
            async with serving("tproxy", attachment.listeners):
                assert who(await ask_everywhere(network)) == who(before), "without a lease the app serves"

                steering.renew(60)
                steered = await ask_everywhere(network)
                assert set(who(steered).values()) == {"tproxy"}
                for (place, destination), found in steered.items():
                    assert found is not None
                    assert found.destination == endpoint(destination, PORT)
                    source = SOURCES[destination] if place == "outside" else destination
                    assert found.source.split("|")[0] == source

                for destination in DESTINATIONS:
                    own = await ask_upstream(attachment, destination)
                    expected = before["inside", destination]
                    assert (own and own.who) == (expected and expected.who), destination
                    assert own is None or expected is None or own.destination == expected.destination

                attachment.stop()
                assert who(await ask_everywhere(network)) == who(before), "after stop the app serves"
            assert attachment.counters() == {PORT: Counters(steered=6, own=4, lease_expired=6)}
            attachment.close()
        app.close()

    asyncio.run(scenario())


def test_established_connections_stay_where_they_are(network: PodNetwork, steering: Steering) -> None:
    async def echoes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, text: bytes) -> bool:
        writer.write(text)
        async with asyncio.timeout(5):
            return await reader.readexactly(len(text)) == text

    async def scenario() -> None:
        with contextlib.closing(network.pod.listen("::", PORT)) as app:
            async with serving("app", [app]):
                connect = [await network.outside.connect(host, PORT) for host in (POD_IP4, POD_IP6)]
                old = [await asyncio.open_connection(sock=sock) for sock in connect]
                assert [(await answer(reader)).who for reader, _ in old] == ["app", "app"]

                attachment = steering.attach(network.pod.netns, PORTS)
                async with serving("tproxy", attachment.listeners):
                    assert all([await echoes(*streams, b"attached") for streams in old])
                    connect = [await network.outside.connect(host, PORT) for host in (POD_IP4, POD_IP6)]
                    stolen = [await asyncio.open_connection(sock=sock) for sock in connect]
                    assert [(await answer(reader)).who for reader, _ in stolen] == ["tproxy", "tproxy"]
                    attachment.stop()
                    attachment.close()
                    assert all([await echoes(*streams, b"detached") for streams in old + stolen])
                for _, writer in old + stolen:
                    await closed(writer)

    asyncio.run(scenario())


def test_other_ports_are_none_of_our_business(network: PodNetwork, steering: Steering) -> None:
    async def scenario() -> None:
        other = PORT + 1
        with contextlib.closing(network.pod.listen("::", other)) as app:
            attachment = steering.attach(network.pod.netns, PORTS)
            async with serving("app", [app]), serving("tproxy", attachment.listeners):
                assert [(await ask(network.outside, host, other)).who for host in (POD_IP4, POD_IP6)] == ["app"] * 2

                attachment.set_ports([SteeredPort(other)])
                assert attachment.ports == {SteeredPort(other)}
                assert (await ask(network.outside, POD_IP4, other)).who == "tproxy"
                assert await ask(network.outside, POD_IP4, PORT) is None, "nobody listens there, and we don't either"

                attachment.set_ports([SteeredPort(PORT), SteeredPort(other)])
                assert (await ask(network.outside, POD_IP4, PORT)).who == "tproxy"
                attachment.set_ports(PORTS)
                attachment.set_ports([SteeredPort(PORT), SteeredPort(other)])
                await ask(network.outside, POD_IP6, other)
                assert attachment.counters() == {PORT: Counters(steered=1), other: Counters(steered=2)}

    asyncio.run(scenario())


@pytest.mark.parametrize("host", ["127.0.0.1", POD_IP4, "::1", POD_IP6])
def test_many_own_connections_at_once(network: PodNetwork, steering: Steering, host: str) -> None:
    """The daemon is in another namespace than the pod; none of its connections comes back to it."""
    count = 300

    async def scenario() -> None:
        with contextlib.closing(network.pod.listen("::", PORT)) as app:
            attachment = steering.attach(network.pod.netns, PORTS)
            async with serving("app", [app]), serving("tproxy", attachment.listeners):
                answers = await asyncio.gather(*[ask_upstream(attachment, host) for _ in range(count)])
                assert [found.who for found in answers if found] == ["app"] * count
                assert len({found.source for found in answers if found}) == count
                steered = await asyncio.gather(*[ask(network.pod, host) for _ in range(20)])
                assert {found.who for found in steered if found} == {"tproxy"}
                assert attachment.counters()[PORT] == Counters(own=count, steered=20)

    asyncio.run(scenario())


def test_an_exemption_is_for_one_source_and_ends_with_release(network: PodNetwork, steering: Steering) -> None:
    async def scenario() -> None:
        with contextlib.closing(network.pod.listen("::", PORT)) as app:
            attachment = steering.attach(network.pod.netns, PORTS)
            async with serving("app", [app]), serving("tproxy", attachment.listeners):
                sock = attachment.upstream(CLIENT, Address(POD_IP4, PORT))
                await asyncio.get_running_loop().sock_connect(sock, (POD_IP4, PORT))
                host, port = sock.getsockname()
                assert host == POD_IP4
                # The same port of other addresses is somebody else's.
                assert (await ask(network.pod, "127.0.0.1", source=("127.0.0.1", port))).who == "tproxy"
                assert (await ask(network.outside, POD_IP4, source=(OUTSIDE_IP4, port))).who == "tproxy"
                # Nothing may be left of the connection, or its addresses could not be used again.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                attachment.release(sock)
                assert sock.fileno() == -1
                assert (await ask(network.pod, POD_IP4, source=(POD_IP4, port))).who == "tproxy"

    asyncio.run(scenario())


def test_own_connections_through_mapped_addresses(network: PodNetwork, steering: Steering) -> None:
    """An IPv6 socket that connects to a mapped address sends IPv4 packets: those are exempt."""

    async def scenario() -> None:
        with contextlib.closing(network.pod.listen("0.0.0.0", PORT)) as app:
            attachment = steering.attach(network.pod.netns, PORTS)
            async with serving("app", [app]), serving("tproxy", attachment.listeners):
                found = await ask_upstream(attachment, f"::ffff:{POD_IP4}")
                assert found is not None
                assert found.who == "app"

    asyncio.run(scenario())


def test_released_twice_or_after_close_is_harmless(network: PodNetwork, steering: Steering) -> None:
    attachment = steering.attach(network.pod.netns, PORTS)
    with network.pod.listen("0.0.0.0", PORT):
        first, second = (attachment.upstream(CLIENT, Address(POD_IP4, PORT)) for _ in range(2))
    attachment.release(first)
    attachment.release(first)
    attachment.close()
    attachment.release(second)
    attachment.stop()
    attachment.close()
    assert second.fileno() == -1
    assert attachment.counters() == {PORT: Counters(own=2)}


@pytest.mark.parametrize("host", [POD_IP4, POD_IP6])
def test_lease(network: PodNetwork, steering: Steering, host: str) -> None:
    async def scenario() -> None:
        with contextlib.closing(network.pod.listen("::", PORT)) as app:
            attachment = steering.attach(network.pod.netns, PORTS)
            async with serving("app", [app]), serving("tproxy", attachment.listeners):
                renewed = time.monotonic()
                steering.renew(1)
                took = time.monotonic() - renewed
                began, before, after = 0.0, set(), ""
                while began <= took + 1.05:
                    began = time.monotonic() - renewed
                    after = (await ask(network.outside, host)).who
                    if time.monotonic() - renewed < 1:
                        before.add(after)
                assert before == {"tproxy"}
                assert after == "app"
                steering.renew(60)
                assert (await ask(network.outside, host)).who == "tproxy"

    asyncio.run(scenario())


def test_one_lease_for_all_pods(namespaces: Namespaces, steering: Steering) -> None:
    async def scenario() -> None:
        networks = [namespaces.make_pod() for _ in range(2)]
        attachments = [steering.attach(network.pod.netns, PORTS) for network in networks]
        async with contextlib.AsyncExitStack() as stack:
            for network, attachment in zip(networks, attachments, strict=True):
                app = stack.enter_context(contextlib.closing(network.pod.listen("::", PORT)))
                await stack.enter_async_context(serving("app", [app]))
                await stack.enter_async_context(serving("tproxy", attachment.listeners))
            assert [(await ask(network.outside, POD_IP6)).who for network in networks] == ["tproxy"] * 2
            steering.renew(0)
            assert [(await ask(network.outside, POD_IP6)).who for network in networks] == ["app"] * 2

    asyncio.run(scenario())


def test_pod_without_ip6(namespaces: Namespaces, steering: Steering, backend: str) -> None:
    async def scenario() -> None:
        pod = namespaces.make("pod")
        pod.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
        attachment = steering.attach(pod.netns, PORTS)
        assert [listener.family for listener in attachment.listeners] == [socket.AF_INET]
        async with serving("tproxy", attachment.listeners):
            assert (await ask(pod, "127.0.0.1")).who == "tproxy"
            # Should IPv6 be switched on after all: no listener, so the app gets it. There are no rules to count it.
            pod.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=0")
            with contextlib.closing(pod.listen("::1", PORT)) as app:
                async with serving("app", [app]):
                    assert (await ask(pod, "::1")).who == "app"
        assert attachment.counters()[PORT] == Counters(steered=1, no_listener=int(backend == "sk_lookup"))

    asyncio.run(scenario())


def test_the_newest_attachment_takes_over(network: PodNetwork, steering: Steering, backend: str) -> None:
    """As when a daemon starts while its predecessor still lives; neither sees the other's own connections."""

    async def scenario() -> None:
        with (
            contextlib.closing(network.pod.listen("::", PORT)) as app,
            contextlib.closing(BACKENDS[backend]()) as newer,
        ):
            newer.renew(60)
            first = steering.attach(network.pod.netns, PORTS)
            async with serving("app", [app]), serving("first", first.listeners):
                assert (await ask(network.outside, POD_IP4)).who == "first"
                second = newer.attach(network.pod.netns, PORTS)
                async with serving("second", second.listeners):
                    assert (await ask(network.outside, POD_IP4)).who == "second"
                    for attachment in (first, second):
                        for host in DESTINATIONS:
                            found = await ask_upstream(attachment, host)
                            assert found is not None
                            # Of the older one's own connections nobody knows any more, unless they are marked.
                            exempt = attachment is second or backend == "tproxy"
                            assert found.who == ("app" if exempt else "second")
                    assert attachments_in(network.pod) == 1
                    first.stop()
                    first.close()
                    assert (await ask(network.outside, POD_IP6)).who == "second"
                    second.stop()
                    assert (await ask(network.outside, POD_IP6)).who == "app"
                    second.close()

    asyncio.run(scenario())


def test_the_newest_attachment_leaves_other_pods_alone(namespaces: Namespaces, steering: Steering) -> None:
    async def scenario() -> None:
        one, other = namespaces.make_pod(), namespaces.make_pod()
        kept = steering.attach(other.pod.netns, PORTS)
        steering.attach(one.pod.netns, PORTS)
        steering.attach(one.pod.netns, PORTS)
        async with serving("kept", kept.listeners):
            assert (await ask(other.outside, POD_IP4)).who == "kept"

    asyncio.run(scenario())


def test_the_namespace_may_go_first(namespaces: Namespaces, steering: Steering) -> None:
    network = namespaces.make_pod()
    attachment = steering.attach(network.pod.netns, PORTS)
    namespaces.close()
    attachment.stop()
    attachment.close()
    assert attachment.counters() == {PORT: Counters()}


def test_a_listener_of_ours_is_not_reachable_from_outside(network: PodNetwork, steering: Steering) -> None:
    async def scenario() -> None:
        attachment = steering.attach(network.pod.netns, PORTS)
        port = attachment.listeners[0].getsockname()[1]
        place: Namespace = network.outside
        assert await ask(place, POD_IP4, port) is None

    asyncio.run(scenario())


def test_our_own_listener_is_no_destination(network: PodNetwork, steering: Steering) -> None:
    """A connection to it, passed on to where its client meant, would come back for ever."""
    attachment = steering.attach(network.pod.netns, PORTS)
    for listener in attachment.listeners:
        with pytest.raises(ConnectionRefusedError):
            attachment.upstream(CLIENT, Address(*listener.getsockname()[:2]))


def test_our_listeners_keep_off_the_ports_of_the_app(network: PodNetwork, steering: Steering) -> None:
    """The app may start after us, on a port that the kernel also gives out by itself."""
    ports = range(40000, 40008)
    network.pod.run("sysctl", "-qw", f"net.ipv4.ip_local_port_range={ports[0]} {ports[-1]}")
    attachment = steering.attach(network.pod.netns, map(SteeredPort, ports[:-1]))
    assert [listener.getsockname()[1] for listener in attachment.listeners] == [ports[-1]] * 2


def test_our_own_connections_do_not_keep_the_app_from_its_port(network: PodNetwork, steering: Steering) -> None:
    attachment = steering.attach(network.pod.netns, PORTS)
    with network.pod.listen("0.0.0.0", PORT):
        sock = attachment.upstream(CLIENT, Address(POD_IP4, PORT))
    network.pod.listen("0.0.0.0", PORT).close()
    network.pod.listen("0.0.0.0", sock.getsockname()[1]).close()
    attachment.release(sock)
