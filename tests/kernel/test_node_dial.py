"""Dialling for a laptop from a real namespace: TCP, UDP, names, DNS, and what goes wrong there."""

import asyncio
import ipaddress
import socket

import dns.message
import dns.rcode
import pytest
from tproxy_node.dial.dialling import DialLimits

from tests.kernel.answering import serving
from tests.kernel.dialling import RESOLV_CONF, Zone, play, resolver, scene, udp_echo
from tests.kernel.namespaces import OUTSIDE_IP4, OUTSIDE_IP6, POD_IP4, POD_IP6, PodNetwork, until
from tests.unit.node.objects import pod
from tproxy.model.dial_policy import DialPolicy, Where
from tproxy.model.flow import ResetReason
from tproxy.tunnel import flow

PORT = 8080
NAMES = {
    ("db.shop.svc.cluster.local", "A"): [OUTSIDE_IP4],
    ("db.shop.svc.cluster.local", "AAAA"): [OUTSIDE_IP6],
    ("six.shop.svc.cluster.local", "AAAA"): [OUTSIDE_IP6],
    ("evil.shop.svc.cluster.local", "A"): ["127.0.0.1"],
    ("half-evil.shop.svc.cluster.local", "A"): ["127.0.0.1", OUTSIDE_IP4],
    ("www.example.com", "A"): [OUTSIDE_IP4],
}


@pytest.mark.parametrize(("host", "source"), [(OUTSIDE_IP4, POD_IP4), (OUTSIDE_IP6, POD_IP6)])
def test_tcp_leaves_from_the_pod(network: PodNetwork, host: str, source: str) -> None:
    async def scenario() -> None:
        listener = network.outside.listen(host, PORT)
        async with scene(network) as one, serving("db", [listener]):
            received = one.dial(host, PORT)
            received.conn.write(b"early")
            await until(lambda: received.data.endswith(b"early"))
            who, destination, seen = received.data.split()[:3]
            assert (who, seen.decode().partition("|")[0]) == (b"db", source), destination
            assert received.opened.is_set()
            received.conn.write_eof()
            async with asyncio.timeout(5):
                await received.eof.wait()
            await until(lambda: one.dialling.active.total() == 0)
            assert one.dialling.opened["tcp", "ok"] == 1
        listener.close()

    play(scenario)


def test_half_close_goes_both_ways(network: PodNetwork) -> None:
    async def scenario() -> None:
        listener = network.outside.listen(OUTSIDE_IP4, PORT)

        async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(f"{len(await reader.read())} bytes".encode())  # answers only after the end
            writer.close()

        server = await asyncio.start_server(count, sock=listener)
        async with scene(network) as one:
            received = one.dial(OUTSIDE_IP4, PORT)
            received.conn.write(b"x" * 20_000)
            received.conn.write_eof()
            async with asyncio.timeout(5):
                await received.eof.wait()
            assert received.data == b"20000 bytes"
        server.close()

    play(scenario)


def test_errors_are_what_they_are(network: PodNetwork) -> None:
    async def scenario() -> None:
        network.outside.run("ip", "route", "add", "unreachable", "10.78.0.0/24")
        network.outside.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        network.pod.run("ip", "route", "add", "10.78.0.0/24", "via", OUTSIDE_IP4)
        async with scene(network) as one:
            assert await one.dial(OUTSIDE_IP4, 9).reason() is ResetReason.REFUSED
            assert await one.dial(OUTSIDE_IP6, 9).reason() is ResetReason.REFUSED
            assert await one.dial("10.78.0.1", 80).reason() is ResetReason.UNREACHABLE, "as a router says"
            assert await one.dial("10.99.99.99", 80).reason() is ResetReason.UNREACHABLE, "no route"
            assert one.dialling.active.total() == 0

    play(scenario)


def test_a_reset_of_the_far_end_arrives_as_one(network: PodNetwork) -> None:
    async def scenario() -> None:
        listener = network.outside.listen(OUTSIDE_IP4, PORT)
        async with scene(network) as one:
            received = one.dial(OUTSIDE_IP4, PORT)
            accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            accepted.close()
            assert await received.reason() is ResetReason.RESET
        listener.close()

    play(scenario)


def test_names_are_resolved_by_the_pods_resolvers(network: PodNetwork) -> None:
    async def scenario() -> None:
        listeners = [network.outside.listen(host, PORT) for host in (OUTSIDE_IP4, OUTSIDE_IP6)]
        zone = Zone(NAMES)
        async with scene(network) as one, resolver(network.outside, zone), serving("db", listeners):
            for name in ("db", "db.shop", "db.shop.svc.cluster.local", "six", "www.example.com"):
                received = one.dial(name, PORT)
                await until(lambda received=received: received.data.startswith(b"db "))
            missing = one.dial("nobody", PORT)
            assert await missing.reason() is ResetReason.NO_SUCH_HOST
            assert "nobody" in missing.reset.result()[1]
            assert await one.dial("a..b", PORT).reason() is ResetReason.NO_SUCH_HOST
            assert await one.dial("x" * 64, PORT).reason() is ResetReason.NO_SUCH_HOST
        for listener in listeners:
            listener.close()

    play(scenario)


def test_the_policy_is_applied_to_what_a_name_means(network: PodNetwork) -> None:
    async def scenario() -> None:
        listener, inside = network.outside.listen(OUTSIDE_IP4, PORT), network.pod.listen("127.0.0.1", PORT)
        async with scene(network) as one, resolver(network.outside, Zone(NAMES)), serving("db", [listener]):
            denied = one.dial("evil", PORT)
            assert await denied.reason() is ResetReason.DENIED
            assert "policy loopback" in denied.reset.result()[1]
            received = one.dial("half-evil", PORT)
            await until(lambda: received.data.startswith(b"db "))
        listener.close()
        inside.close()

    play(scenario)


DENIED = {
    "127.0.0.1": "loopback",
    "::1": "loopback",
    "::ffff:127.0.0.1": "loopback",
    "0.0.0.0": "unspecified",
    "169.254.169.254": "metadata",
    "fd00:ec2::254": "metadata",
    "fe80::1": "link-local",
    "224.0.0.1": "multicast",
    "255.255.255.255": "broadcast",
    OUTSIDE_IP4: "node",
    f"::ffff:{OUTSIDE_IP4}": "node",
    OUTSIDE_IP6: "api-server",
}


def test_what_is_denied_is_not_even_tried(network: PodNetwork) -> None:
    async def scenario() -> None:
        listeners = [network.outside.listen(host, PORT) for host in (OUTSIDE_IP4, OUTSIDE_IP6)]
        listeners += [network.pod.listen("0.0.0.0", PORT), network.pod.listen("::1", PORT)]
        where = Where(
            frozenset({ipaddress.ip_address(OUTSIDE_IP4)}), api_server=frozenset({ipaddress.ip_address(OUTSIDE_IP6)})
        )
        async with scene(network, where=where) as one:
            for protocol in ("tcp", "udp"):
                for host, policy in DENIED.items():
                    received = one.dial(host, PORT, protocol)
                    assert await received.reason() is ResetReason.DENIED, host
                    assert f"policy {policy}" in received.reset.result()[1], host
            assert await one.dial("10.0.0.1", 0).reason() is ResetReason.DENIED
            one.where = None  # type: ignore[assignment]
            assert await one.dial("8.8.8.8", 80).reason() is ResetReason.DENIED, "nothing is known yet"
        for listener in listeners:
            with pytest.raises(BlockingIOError):
                listener.accept()
            listener.close()

    play(scenario)


def test_the_resolvers_are_reached_even_where_nothing_else_is(network: PodNetwork) -> None:
    async def scenario() -> None:
        node = Where(frozenset({ipaddress.ip_address(OUTSIDE_IP4)}))
        async with scene(network, where=node) as one, resolver(network.outside, Zone(NAMES)):
            received = one.dial(OUTSIDE_IP4, 53)
            async with asyncio.timeout(5):
                await received.opened.wait()
            assert await one.dial(OUTSIDE_IP4, 54).reason() is ResetReason.DENIED

    play(scenario)


def test_an_administrator_may_allow_more(network: PodNetwork) -> None:
    async def scenario() -> None:
        listener = network.outside.listen(OUTSIDE_IP4, PORT)
        where = Where(frozenset({ipaddress.ip_address(OUTSIDE_IP4)}))
        policy = DialPolicy(allow_nodes=True)
        async with scene(network, where=where, policy=policy) as one, serving("db", [listener]):
            received = one.dial(OUTSIDE_IP4, PORT)
            await until(lambda: received.data.startswith(b"db "))
        listener.close()

    play(scenario)


def test_only_pods_of_the_own_namespace_are_left_from(network: PodNetwork) -> None:
    async def scenario() -> None:
        async with scene(network) as one:
            one.pods = [pod("web-1"), pod("bank-1", namespace="bank"), pod("host-1", host_network=True)]
            for origin, reason in (
                ("bank/bank-1", ResetReason.DENIED),
                ("bank/web-1", ResetReason.DENIED),
                ("web-1", ResetReason.DENIED),
                ("shop/host-1", ResetReason.DENIED),
                ("shop/bank-1", ResetReason.UNREACHABLE),
            ):
                for protocol in ("tcp", "udp", "dns", "resolv.conf"):
                    assert await one.dial(OUTSIDE_IP4, PORT, protocol, origin).reason() is reason, (origin, protocol)
            one.pods = [
                pod("bank-1", namespace="bank"),
                pod("host-1", host_network=True),
                pod("old", phase="Succeeded"),
            ]
            for protocol in ("tcp", "udp", "dns", "resolv.conf"):
                assert await one.dial(OUTSIDE_IP4, PORT, protocol).reason() is ResetReason.UNREACHABLE, "nobody runs"

    play(scenario)


def test_udp_there_and_back(network: PodNetwork) -> None:
    async def scenario() -> None:
        async with scene(network) as one, udp_echo(network.outside, OUTSIDE_IP4, PORT):
            received = one.dial(OUTSIDE_IP4, PORT, "udp")
            for payload in (b"early", b"", b"x" * 9000, b"y" * 65507):
                assert received.conn.write_datagram(payload)
                async with asyncio.timeout(5):
                    assert await received.datagrams.get() == payload
            received.conn.write_eof()
            await until(lambda: not one.dialling.active.total())

    play(scenario)


def test_udp_where_nobody_listens_is_refused(network: PodNetwork) -> None:
    async def scenario() -> None:
        async with scene(network) as one:
            for host in (OUTSIDE_IP4, OUTSIDE_IP6):
                received = one.dial(host, 9, "udp")
                received.conn.write_datagram(b"anybody?")
                assert await received.reason() is ResetReason.REFUSED

    play(scenario)


def test_an_idle_flow_ends(network: PodNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "IDLE_SECONDS", 0.3)

    async def scenario() -> None:
        async with scene(network) as one, udp_echo(network.outside, OUTSIDE_IP4, PORT):
            received = one.dial(OUTSIDE_IP4, PORT, "udp")
            received.conn.write_datagram(b"once")
            assert await received.reason() is ResetReason.TIMED_OUT
            assert received.datagrams.get_nowait() == b"once"
            assert not one.dialling.active.total()

    play(scenario)


def query(name: str, kind: str = "A", number: int = 7) -> bytes:
    return dns.message.make_query(name, kind, id=number).to_wire()


async def asked(received: object, message: bytes) -> dns.message.Message:
    received.conn.write_datagram(message)  # type: ignore[attr-defined]
    async with asyncio.timeout(10):
        return dns.message.from_wire(await received.datagrams.get())  # type: ignore[attr-defined]


def test_dns_messages_go_to_the_pods_resolvers(network: PodNetwork) -> None:
    async def scenario() -> None:
        zone = Zone(NAMES)
        async with scene(network) as one, resolver(network.outside, zone):
            received = one.dial("", 0, "dns")
            answer = await asked(received, query("www.example.com", number=4711))
            assert (answer.id, answer.answer[0][0].to_text()) == (4711, OUTSIDE_IP4)
            assert (await asked(received, query("nobody.example"))).rcode() == dns.rcode.NXDOMAIN
            zone.silent = 1
            assert (await asked(received, query("www.example.com"))).answer, "a lost datagram is sent again"
            zone.truncate = True
            assert (await asked(received, query("www.example.com"))).answer, "what is too long is asked for by TCP"
            assert zone.asked[-1][0] == "tcp"
            for nonsense in (b"", b"x", bytes(12), query("a.b")[:2] + b"\x81" + query("a.b")[3:]):
                received.conn.write_datagram(nonsense)
            zone.rcode = dns.rcode.SERVFAIL
            assert (await asked(received, query("www.example.com"))).rcode() == dns.rcode.SERVFAIL

    play(scenario)


def test_a_dead_resolver_is_no_reason_to_wait(network: PodNetwork) -> None:
    async def scenario() -> None:
        both = RESOLV_CONF.replace("nameserver", "nameserver 10.77.0.77\nnameserver", 1).replace(
            "10.77.0.77", OUTSIDE_IP6
        )
        async with scene(network, resolv_conf=both) as one, resolver(network.outside, Zone(NAMES)):
            assert (await asked(one.dial("", 0, "dns"), query("www.example.com"))).answer, "the second one answers"
        async with scene(network) as one:
            refused = await asked(one.dial("", 0, "dns"), query("www.example.com"))
            assert refused.rcode() == dns.rcode.SERVFAIL, "ICMP says so at once"
        async with scene(network, resolv_conf="") as one:
            assert (await asked(one.dial("", 0, "dns"), query("a.example"))).rcode() == dns.rcode.SERVFAIL

    play(scenario)


def test_resolv_conf_is_the_pods(network: PodNetwork) -> None:
    async def scenario() -> None:
        async with scene(network) as one:
            received = one.dial("", 0, "resolv.conf")
            async with asyncio.timeout(5):
                await received.eof.wait()
            assert received.data.decode() == f"# shop/web-1\n{RESOLV_CONF}"

    play(scenario)


def test_limits(network: PodNetwork) -> None:
    async def scenario() -> None:
        listener = network.outside.listen(OUTSIDE_IP4, PORT)
        async with (
            scene(network, limits=DialLimits(per_session=3, queries_per_session=1)) as one,
            serving("db", [listener]),
        ):
            opened = [one.dial(OUTSIDE_IP4, PORT) for _ in range(3)]
            assert await one.dial(OUTSIDE_IP4, PORT).reason() is ResetReason.LIMIT
            for received in opened:
                await until(lambda received=received: received.data != b"")
                received.conn.reset()
            await until(lambda: not one.dialling.active.total())
            zone = Zone(NAMES)
            async with resolver(network.outside, zone):
                zone.silent = 1
                received = one.dial("", 0, "dns")
                async with asyncio.timeout(5):
                    await received.opened.wait()
                received.conn.write_datagram(query("www.example.com", number=1))
                second = await asked(received, query("www.example.com", number=2))
                assert (second.id, second.rcode()) == (2, dns.rcode.SERVFAIL)
        listener.close()

    play(scenario)


def test_when_the_pod_goes_its_connections_end(network: PodNetwork) -> None:
    async def scenario() -> None:
        listener = network.outside.listen(OUTSIDE_IP4, PORT)
        async with scene(network) as one, serving("db", [listener]), udp_echo(network.outside, OUTSIDE_IP4, PORT):
            tcp, udp = one.dial(OUTSIDE_IP4, PORT), one.dial(OUTSIDE_IP4, PORT, "udp")
            await until(lambda: tcp.data != b"" and udp.opened.is_set())
            await one.origins.verify()
            assert not tcp.reset.done()
            one.pods = []
            await one.origins.verify()
            assert await tcp.reason() is ResetReason.RESET
            assert await udp.reason() is ResetReason.RESET
            await until(lambda: not one.dialling.active.total())
            one.pods = [pod("web-2", addresses=(POD_IP4,))]
            again = one.dial(OUTSIDE_IP4, PORT)
            await until(lambda: again.data != b"")
        listener.close()

    play(scenario)


def test_who_gives_up_while_connecting_leaves_nothing(network: PodNetwork) -> None:
    async def scenario() -> None:
        drop = ("-p", "tcp", "--dport", str(PORT), "-j", "DROP")
        network.outside.run("iptables-legacy", "-A", "INPUT", *drop)
        async with scene(network) as one:
            received = one.dial(OUTSIDE_IP4, PORT)
            syn_sent = ("ss", "-Htn", "state", "syn-sent")
            await until(lambda: bool(network.pod.run(*syn_sent)))
            received.conn.reset()
            await until(lambda: not network.pod.run(*syn_sent))
            assert not one.dialling.active.total()

    play(scenario)
