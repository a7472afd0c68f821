"""What a Session may reach through a node daemon and what not, with the real daemons, addresses and pods of the lab."""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.kernel.dialling import Received
from tests.lab.connected import MANIFESTS, SERVERS
from tests.lab.laptop import network
from tests.lab.test_must_hold_door import relayed
from tproxy.dns import wire
from tproxy.errors import DeniedError
from tproxy.kube.port import NAMESPACES, SERVICES, SESSIONS
from tproxy.lab.addresses import API_PORT, ROUTER, Node
from tproxy.model.flow import RESOLVERS, Address, FlowKind, OpenRequest, ResetReason
from tproxy.model.session import Session, hash_token
from tproxy.rpc.client import connect
from tproxy.tunnel.endpoint import Endpoint
from tproxy.tunnel.hello import Hello

OWN, OTHER = "dial-own", "dial-other"
NODES = [Node(1), Node(2)]
DENIED = [
    *((address, 10250, "node") for node in NODES for address in (*node.addresses, *node.gateway)),
    *((address, API_PORT, "api-server") for address in ROUTER),
    (f"::ffff:{ROUTER[0]}", API_PORT, "api-server"),
    (f"::ffff:{NODES[1].addresses[0]}", 4771, "node"),
    ("169.254.169.254", 80, "metadata"),
    ("fd00:ec2::254", 80, "metadata"),
    ("169.254.7.7", 80, "link-local"),
    ("fe80::1", 80, "link-local"),
    ("127.0.0.1", 4770, "loopback"),
    ("::1", 4770, "loopback"),
    ("::ffff:127.0.0.1", 4770, "loopback"),
    ("0.0.0.0", 8080, "unspecified"),
    ("::", 8080, "unspecified"),
    ("224.0.0.1", 80, "multicast"),
    ("255.255.255.255", 80, "broadcast"),
]


@dataclass
class Place:
    """Two namespaces with the same servers, and a Session in the first."""

    lab: Any
    token: bytes
    own: list[Any]
    other: list[Any]

    def address(self, namespace: str, family: int) -> str:
        """The Service's."""
        found = self.lab.client.get(SERVICES, "servers", namespace)["spec"]["clusterIPs"]
        return str(sorted(found, key=lambda one: ":" in one)[family])


@pytest.fixture(scope="module")
def place(lab: Any) -> Iterator[Place]:
    manifests = MANIFESTS.format(server=json.dumps(str(SERVERS))).replace("replicas: 1", "replicas: 2")
    for namespace in (OWN, OTHER):
        lab.client.create(NAMESPACES, {"metadata": {"name": namespace}})
        lab.apply(manifests, namespace)
    token = os.urandom(32)
    session = Session(OWN, "dialler", "", hash_token(token), "somebody", "somewhere", None, 3600)
    lab.client.create(SESSIONS, session.to_object(), OWN)
    try:
        yield Place(lab, token, lab.pods(OWN, "servers-"), lab.pods(OTHER, "servers-"))
    finally:
        for namespace in (OWN, OTHER):
            lab.client.delete(NAMESPACES, namespace)


def play(place: Place, scenario: Callable[[Endpoint], Awaitable[None]], token: bytes = b"") -> None:
    """Run a scenario with a stream to the daemon of node1."""

    async def whole() -> None:
        daemon = next(one for one in place.lab.pods("tproxy-system") if one["node"] == "node1")
        inside = network(daemon["netns"])
        try:
            async with asyncio.timeout(60), relayed(inside) as target:
                endpoint = await connect(target, Hello(OWN, "dialler", token or place.token), lambda conn: conn.reset())
                try:
                    await scenario(endpoint)
                finally:
                    endpoint.close()
        finally:
            inside.netns.close()

    asyncio.run(whole())


def dial(endpoint: Endpoint, host: str, port: int, protocol: str = "tcp", pod: str = "") -> Received:
    received = Received()
    destination = RESOLVERS if protocol in ("dns", "resolv.conf") else Address(host, port)
    received.conn = endpoint.open(OpenRequest(FlowKind.DIAL, destination, pod=pod, protocol=protocol), received)
    received.conn.on_datagram = received.datagrams.put_nowait
    return received


async def get(received: Received) -> str:
    """The body of an answer."""
    received.conn.write(b"GET / HTTP/1.0\r\n\r\n")
    async with asyncio.timeout(10):
        await received.eof.wait()
    return received.data.decode().rpartition("\r\n\r\n")[2].strip()


def test_what_a_pod_of_the_namespace_reaches(place: Place) -> None:
    here = next(pod for pod in place.own if pod["node"] == "node1")

    async def scenario(endpoint: Endpoint) -> None:
        for host, port in (
            *((place.address(namespace, family), 80) for namespace in (OWN, OTHER) for family in (0, 1)),
            *((address, 8080) for pod in (*place.own, *place.other) for address in pod["addresses"]),
            ("servers", 80),
            (f"servers.{OTHER}", 80),
            (f"headless.{OWN}.svc.cluster.local", 8080),
        ):
            assert (await get(dial(endpoint, host, port))).startswith("servers-"), host
        elsewhere = next(pod for pod in place.other if pod["node"] == "node2")
        seen = await get(dial(endpoint, elsewhere["addresses"][0], 8080, pod=f"{OWN}/{here['name']}"))
        assert seen.split()[1] == here["addresses"][0], "it leaves from the pod that was named"
        echo = dial(endpoint, place.address(OWN, 0), 7, "udp")
        echo.conn.write_datagram(b"hi")
        async with asyncio.timeout(5):
            assert await echo.datagrams.get() == b"hi"

    play(place, scenario)


def test_names_and_the_resolver_itself(place: Place) -> None:
    async def scenario(endpoint: Endpoint) -> None:
        dns = dial(endpoint, "", 0, "dns")
        dns.conn.write_datagram(wire.make_query(f"servers.{OTHER}.svc.cluster.local", wire.A, 5))
        async with asyncio.timeout(10):
            answer = await dns.datagrams.get()
        assert [address for address, _ in wire.addresses(answer)] == [place.address(OTHER, 0)]
        text = dial(endpoint, "", 0, "resolv.conf")
        async with asyncio.timeout(10):
            await text.eof.wait()
        lines = text.data.decode().splitlines()
        assert lines[0].startswith(f"# {OWN}/servers-")
        assert f"search {OWN}.svc.cluster.local svc.cluster.local cluster.local" in lines
        resolver = next(line.split()[1] for line in lines if line.startswith("nameserver "))
        asked = dial(endpoint, resolver, 53, "udp")
        asked.conn.write_datagram(wire.make_query(f"servers.{OWN}.svc.cluster.local", wire.A, 6))
        async with asyncio.timeout(10):
            assert wire.addresses(await asked.datagrams.get())
        assert await dial(endpoint, "nobody", 80).reason() is ResetReason.NO_SUCH_HOST

    play(place, scenario)


def test_what_no_laptop_reaches(place: Place) -> None:
    async def scenario(endpoint: Endpoint) -> None:
        for protocol in ("tcp", "udp"):
            for host, port, policy in DENIED:
                received = dial(endpoint, host, port, protocol)
                assert await received.reason() is ResetReason.DENIED, (host, protocol)
                assert f"policy {policy}" in received.reset.result()[1], host
        assert await dial(endpoint, place.address(OWN, 0), 9).reason() in (
            ResetReason.REFUSED,
            ResetReason.UNREACHABLE,
        ), "allowed, and nobody there"

    play(place, scenario)


def test_from_other_namespaces_pods_nothing_leaves(place: Place) -> None:
    daemon = place.lab.pods("tproxy-system")[0]
    others = [f"{OTHER}/{pod['name']}" for pod in place.other] + [f"tproxy-system/{daemon['name']}", "nowhere/x", "x"]

    async def scenario(endpoint: Endpoint) -> None:
        for pod in others:
            for protocol in ("tcp", "udp", "dns", "resolv.conf"):
                received = dial(endpoint, place.address(OWN, 0), 80, protocol, pod)
                assert await received.reason() is ResetReason.DENIED, (pod, protocol)
                assert "policy own-namespace" in received.reset.result()[1]
        far = next(pod for pod in place.own if pod["node"] == "node2")
        elsewhere = dial(endpoint, place.address(OWN, 0), 80, pod=f"{OWN}/{far['name']}")
        assert await elsewhere.reason() is ResetReason.UNREACHABLE, "that one is on another node"

    play(place, scenario)


def test_without_the_token_nothing_is_dialled(place: Place) -> None:
    async def scenario(endpoint: Endpoint) -> None:
        raise AssertionError("a stream without the token")

    with pytest.raises(DeniedError):
        play(place, scenario, os.urandom(32))


def test_when_the_session_goes_everything_ends(place: Place) -> None:
    session = Session(OWN, "short", "", hash_token(place.token), "somebody", "somewhere", None, 3600)
    place.lab.client.create(SESSIONS, session.to_object(), OWN)

    async def whole() -> None:
        daemon = next(one for one in place.lab.pods("tproxy-system") if one["node"] == "node1")
        inside = network(daemon["netns"])
        try:
            async with asyncio.timeout(30), relayed(inside) as target:
                endpoint = await connect(target, Hello(OWN, "short", place.token), lambda conn: conn.reset())
                received = dial(endpoint, place.address(OWN, 0), 80)
                await received.opened.wait()
                await asyncio.to_thread(place.lab.client.delete, SESSIONS, "short", OWN)
                assert "deleted" in await endpoint.wait_closed()
                assert await received.reason() is ResetReason.TUNNEL_LOST
        finally:
            inside.netns.close()

    asyncio.run(whole())
