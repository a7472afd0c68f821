"""The laptop's way into a cluster: its Session, its tunnel, its pod, and what comes back."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tproxy_cli.daemon.cluster import LaptopCluster
from tproxy_cli.daemon.outbound.way import Way, open_outbound
from tproxy_cli.daemon.requests import Where
from tproxy_node.opening import Identity

from tests.unit.cli_daemon.harness import NodeStandIn, Stage, local_app, staged, until
from tproxy.dns import wire
from tproxy.errors import ClusterError, InvalidError, TproxyError
from tproxy.kube.port import PODS, SERVICES, SESSIONS
from tproxy.model.flow import Address, FlowKind, ResetReason
from tproxy.model.workload import TargetQuery, parse_target
from tproxy.tasks import Tasks
from tproxy.tunnel.bridge import connect_bridge
from tproxy.tunnel.conn import Conn

CONF = "search shop.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n"
FAR = {"metadata": {"name": "far"}, "spec": {"clusterIP": "10.96.7.7", "ports": [{"port": 80}]}}


class Dialler:
    """A node's part, without pods: TCP goes to this machine, datagrams come back, DNS knows no name."""

    def __init__(self, node: NodeStandIn) -> None:
        self.asked: list[tuple[str, str]] = []
        self.answers = 0
        self.silent = False
        self.node = node
        self._tasks = Tasks("dialler")
        node.openings.add(FlowKind.DIAL, ("tcp", "udp", "dns", "resolv.conf"), self.serve)

    def conn_opened(self) -> None: ...
    def conn_data(self, data: object) -> None: ...
    def conn_eof(self) -> None: ...
    def conn_pause(self) -> None: ...
    def conn_resume(self) -> None: ...
    def conn_reset(self, reason: ResetReason, detail: str) -> None: ...

    def serve(self, identity: Identity, conn: Conn) -> None:
        request = conn.request
        self.asked.append((request.protocol, request.pod))
        if request.protocol == "tcp":
            if request.destination.host == "169.254.169.254":
                conn.reset(ResetReason.DENIED, "169.254.169.254 is denied by policy metadata")
            else:
                connect_bridge(conn, [("127.0.0.1", request.destination.port)], self._tasks)
            return
        conn.sink = self
        conn.accept()
        if request.protocol == "resolv.conf":
            conn.write(f"# {request.pod or 'shop/web-0'}\n{CONF}".encode())
            conn.write_eof()
        elif request.protocol == "udp":
            conn.on_datagram = conn.write_datagram
        else:
            conn.on_datagram = lambda message: self.answer(conn, message)

    def answer(self, conn: Conn, message: bytes) -> None:
        if not self.silent:
            self.answers += 1
            empty = wire.answer_without_records(message, 0)
            record = b"\xc0\x0c\0\1\0\1\0\0\0\5\0\4\xc0\0\2\7"
            conn.write_datagram(empty[:6] + b"\0\1" + empty[8:] + record)


class Heard:
    """Both a `ConnSink` and a `DatagramSink`."""

    def __init__(self) -> None:
        self.data = b""
        self.opened = False
        self.reset: tuple[ResetReason, str] | None = None
        self.datagrams: list[bytes] = []

    def conn_opened(self) -> None:
        self.opened = True

    def conn_data(self, data: Any) -> None:
        self.data += data

    def conn_eof(self) -> None: ...
    def conn_pause(self) -> None: ...
    def conn_resume(self) -> None: ...

    def conn_reset(self, reason: ResetReason, detail: str) -> None:
        self.reset = (reason, detail)

    def datagram(self, payload: bytes) -> None:
        self.datagrams.append(payload)

    flow_ended = conn_reset


async def cluster_of(stage: Stage, user: str = "ann") -> LaptopCluster:
    laptop = stage.laptop(user)
    return (await laptop.engine._find(Where(stage.kubeconfig(user), None, None)))[0]


async def way_of(stage: Stage, target: str = "", user: str = "ann") -> Way:
    query: TargetQuery | None = parse_target(target) if target else None
    return await open_outbound(await cluster_of(stage, user), "shop", query)


def sessions(stage: Stage) -> list[Any]:
    return stage.store.list(SESSIONS, "shop")


def test_tcp_udp_and_dns(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with staged(tmp_path) as stage, local_app() as port:
            dialler = Dialler(stage.nodes["node1"])
            way = await way_of(stage)
            assert (way.origin, way.node, way.trouble) == ("shop/web-0", "node1", "")
            assert way.resolv_conf.search[0] == "shop.svc.cluster.local"
            heard = Heard()
            way.open_tcp(Address("10.96.0.7", port), None, heard).write(b"hello")
            await until(lambda: heard.data == b"from the laptop", "an answer by TCP")
            assert heard.opened
            flow = way.open_udp(Address("10.96.0.7", 53), None, heard)
            assert flow.send(b"ping")
            await until(lambda: heard.datagrams == [b"ping"], "a datagram")
            flow.close()
            query = wire.make_query("web.shop.svc.cluster.local", wire.A, 7)
            answer = await way.query(query)
            assert (answer[:2], wire.addresses(answer)) == (query[:2], [("192.0.2.7", 5)])
            assert way.owns("192.0.2.7"), "learned from DNS"
            await way.query(wire.make_query("www.example.com", wire.A))
            denied = Heard()
            way.open_tcp(Address("169.254.169.254", 80), None, denied)
            await until(lambda: denied.reset is not None, "a refusal")
            assert denied.reset == (ResetReason.DENIED, "169.254.169.254 is denied by policy metadata")
            assert {pod for _, pod in dialler.asked} == {""}
            await way.close()

    asyncio.run(scenario())


def test_the_session_lives_as_long_as_it_is_used(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with staged(tmp_path) as stage:
            Dialler(stage.nodes["node1"])
            cluster = await cluster_of(stage)
            first, second = (
                await open_outbound(cluster, "shop"),
                await open_outbound(cluster, "shop", TargetQuery(None, "web")),
            )
            assert len(sessions(stage)) == 1
            await first.close()
            await first.close()
            assert len(sessions(stage)) == 1
            heard = Heard()
            first.open_tcp(Address("10.96.0.7", 1), None, heard)
            await second.close()
            assert sessions(stage) == []
            await until(lambda: heard.reset is not None, "an end")

    asyncio.run(scenario())


def test_it_leaves_from_the_target(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with staged(tmp_path, ("node1", "node2"), pods=2) as stage:
            diallers = {name: Dialler(node) for name, node in stage.nodes.items()}
            way = await way_of(stage, "pod/web-1")
            assert (way.origin, way.node) == ("shop/web-1", "node2")
            heard = Heard()
            way.open_tcp(Address("10.96.0.7", 1), None, heard)
            await until(lambda: heard.reset is not None, "a refusal")
            assert heard.reset is not None
            assert heard.reset[0] is ResetReason.REFUSED
            assert diallers["node2"].asked[-1] == ("tcp", "shop/web-1")
            assert diallers["node1"].asked == []
            await way.close()

    asyncio.run(scenario())


def test_when_the_pod_goes_another_takes_over(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with staged(tmp_path, ("node1", "node2"), pods=2) as stage:
            for node in stage.nodes.values():
                Dialler(node)
            way = await way_of(stage, "web")
            before = way.origin
            stage.store.delete(PODS, before.partition("/")[2], "shop", grace_seconds=0)
            await until(lambda: way.origin not in ("", before) and not way.trouble, "another pod")
            assert len(sessions(stage)) == 1
            stage.store.delete(PODS, way.origin.partition("/")[2], "shop", grace_seconds=0)
            await until(lambda: "no pod of" in way.trouble, "a sentence")
            with pytest.raises(ClusterError, match="no pod of"):
                await way.query(wire.make_query("web", wire.A))
            await way.close()
            assert sessions(stage) == []

    asyncio.run(scenario())


def test_a_lost_tunnel_comes_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with staged(tmp_path) as stage:
            node = stage.nodes["node1"]
            dialler = Dialler(node)
            way = await way_of(stage)
            dialler.silent = True
            asking = asyncio.gather(way.query(wire.make_query("web", wire.A)), return_exceptions=True)
            await until(lambda: ("dns", "") in dialler.asked, "a question")
            for stream in node.sessions.streams():
                stream.close("cut")
            (lost,) = await asking
            assert isinstance(lost, ClusterError)
            await until(lambda: way.trouble != "", "the loss is noticed")
            await until(lambda: way.trouble == "", "a way again")
            dialler.silent = False
            assert await way.query(wire.make_query("web", wire.A))
            await way.close()

    asyncio.run(scenario())


def test_a_session_that_somebody_deletes_is_replaced(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with staged(tmp_path) as stage:
            Dialler(stage.nodes["node1"])
            way = await way_of(stage)
            name = sessions(stage)[0]["metadata"]["name"]
            stage.store.delete(SESSIONS, name, "shop")
            await until(lambda: [s["metadata"]["name"] for s in sessions(stage)] not in ([], [name]), "another session")
            await until(lambda: way.trouble == "", "a way again")
            await way.close()
            assert sessions(stage) == []

    asyncio.run(scenario())


def test_what_cannot_be_leaves_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with staged(tmp_path) as stage:
            Dialler(stage.nodes["node1"])
            for target, kind, says in (
                ("wbe", InvalidError, "wbe"),
                ("deploy/none", InvalidError, "none"),
            ):
                with pytest.raises(kind, match=says):
                    await way_of(stage, target)
            with pytest.raises(TproxyError, match="you may not create sessions"):
                await way_of(stage, user="viewer")
            stage.store.delete(PODS, "web-0", "shop", grace_seconds=0)
            with pytest.raises(ClusterError, match="no pod of"):
                await way_of(stage)
            stage.add_pod("host-0", "node1", hostNetwork=True)
            with pytest.raises(ClusterError, match="node's network"):
                await way_of(stage)
            assert sessions(stage) == []

    asyncio.run(scenario())


def test_which_addresses_are_the_clusters(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with staged(tmp_path) as stage:
            Dialler(stage.nodes["node1"])
            way = await way_of(stage)
            assert way.owns("10.244.1.5")
            stage.store.patch(PODS, "web-0", {"status": {"podIP": "10.244.1.6"}}, "shop", "status")
            stage.store.create(SERVICES, FAR, "default")
            await until(lambda: way.owns("10.244.1.6") and way.owns("10.96.7.7"), "news")
            assert not way.owns("127.0.0.1"), "the API server"
            assert not way.owns("192.0.2.1")
            stage.store.delete(PODS, "web-0", "shop", grace_seconds=0)
            await until(lambda: not way.owns("10.244.1.6"), "the address is nobody's")
            await way.close()

    asyncio.run(scenario())


def test_without_the_right_to_see_all_it_is_the_own_namespace(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with staged(tmp_path) as stage:
            Dialler(stage.nodes["node1"])
            stage.store.create(SERVICES, FAR, "default")
            way = await way_of(stage, user="dev")
            assert way.owns("10.244.1.5")
            assert not way.owns("10.96.7.7")
            await way.close()

    asyncio.run(scenario())
