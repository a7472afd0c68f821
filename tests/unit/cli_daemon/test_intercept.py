"""`intercept` and `leave` with a real API server and a real tunnel: what is live, and that nothing is left behind."""

import asyncio
import functools
import time
from pathlib import Path

import pytest

from tests.unit.cli_daemon.harness import Stage, local_app, staged, until
from tproxy.errors import ClusterError, ConflictError, DeniedError, InvalidError, TproxyError
from tproxy.kube.port import INTERCEPTS, PODS, SESSIONS
from tproxy.model.flow import ResetReason
from tproxy.tunnel.hello import Hello


def _nothing_left(stage: Stage) -> bool:
    return not stage.store.list(INTERCEPTS) and not stage.store.list(SESSIONS)


def test_from_intercept_to_leave(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path, ("node1", "node2"), pods=2) as stage, local_app() as port:
            laptop = stage.laptop()
            began = time.monotonic()
            result = await laptop.intercept("web", f"{port}:http")
            assert time.monotonic() - began < 3
            assert result["target"] == "Deployment/web"
            assert result["namespace"] == "shop"
            assert result["ports"] == [{"local": port, "remote": 8080, "protocol": "TCP"}]
            assert [(pod["name"], pod["node"], pod["state"]) for pod in result["pods"]] == [
                ("web-0", "node1", "Ready"),
                ("web-1", "node2", "Ready"),
            ]
            assert result["created"]
            assert result["warnings"] == []

            for node in stage.nodes.values():
                client = node.connect()
                client.conn.write(b"hello")
                await until(lambda: client.received == b"from the laptop", "the local app's answer")  # noqa: B023
                client.conn.write_eof()
                await until(lambda: client.ended, "the end")  # noqa: B023

            [listed] = await laptop.list()
            assert listed["mine"]
            assert (listed["state"], listed["pods"]) == ("Ready", {"ready": 2, "total": 2})
            assert (listed["user"], listed["ports"][0]["local"]) == ("ann", port)
            [status] = laptop.engine.status()
            assert [node["state"] for node in status["nodes"]] == ["connected", "connected"]
            assert status["intercepts"][0]["state"] == "Ready"
            assert sum(node["bytesIn"] for node in status["nodes"]) >= 10

            left = await laptop.leave("web")
            assert [one["name"] for one in left["left"]] == [result["name"]]
            assert all(not node.steered for node in stage.nodes.values()), "left means that the pods serve again"
            assert _nothing_left(stage)
            await until(lambda: not any(node.sessions.streams() for node in stage.nodes.values()), "closed tunnels")
            assert laptop.engine.status() == []
            assert laptop.engine.idle

    asyncio.run(run())


def test_new_pods_are_picked_up_on_new_nodes_too(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path, ("node1", "node2"), pods=1) as stage, local_app() as port:
            laptop = stage.laptop()
            await laptop.intercept("web", str(port))
            stage.add_pod("web-9", "node2")
            await until(lambda: stage.nodes["node2"].steered, "steering of the new pod")
            client = stage.nodes["node2"].connect()
            client.conn.write(b"hello")
            await until(lambda: client.received, "an answer")
            await until(
                lambda: laptop.engine.status()[0]["intercepts"][0]["pods"] == {"ready": 2, "total": 2}, "both in status"
            )

    asyncio.run(run())


def test_without_pods_it_is_created_and_waits_for_them(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path, pods=0) as stage:
            laptop = stage.laptop()
            result = await laptop.intercept("web", "3000:8080")
            assert result["pods"] == []
            stage.add_pod("web-0", "node1")
            await until(lambda: stage.nodes["node1"].steered, "steering of the first pod")

    asyncio.run(run())


@pytest.mark.parametrize(
    ("target", "port", "words"),
    [
        ("wbe", "3000", ("wbe", "web")),
        ("svc/nothing", "3000", ("nothing",)),
        ("web", "3000:99", ("99", "8080")),
        ("web", "3000:grpc", ("grpc", "http")),
    ],
)
def test_what_cannot_be_meant_changes_nothing(tmp_path: Path, target: str, port: str, words: tuple[str, ...]) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage:
            version = stage.store.version
            with pytest.raises(InvalidError) as caught:
                await stage.laptop().intercept(target, port)
            assert all(word in caught.value.message + caught.value.hint for word in words)
            assert caught.value.exit_code == 2
            assert stage.store.version == version

    asyncio.run(run())


def test_a_port_that_nobody_listens_on_is_named(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage:
            async with local_app() as port:
                pass
            laptop = stage.laptop()
            result = await laptop.intercept("web", str(port))
            assert len(result["warnings"]) == 1
            assert str(port) in result["warnings"][0]
            client = stage.nodes["node1"].connect()
            await until(lambda: client.reset is ResetReason.REFUSED, "refused, at once", seconds=1)

    asyncio.run(run())


def test_the_ipv6_loopback_is_tried_too(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage:

            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                writer.write(b"six")
                writer.close()

            server = await asyncio.start_server(serve, "::1", 0)
            async with server:
                result = await stage.laptop().intercept("web", str(server.sockets[0].getsockname()[1]))
                assert result["warnings"] == []
                client = stage.nodes["node1"].connect()
                await until(lambda: client.received == b"six" and client.ended, "the answer")

    asyncio.run(run())


def test_a_connection_of_another_intercept_is_denied(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage, local_app() as port:
            await stage.laptop().intercept("web", str(port))
            client = stage.nodes["node1"].connect(intercept="00000000-0000-0000-0000-000000000000")
            await until(lambda: client.reset is ResetReason.DENIED, "denied")
            assert not client.received

    asyncio.run(run())


def test_a_thousand_connections_at_once(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage, local_app() as port:
            await stage.laptop().intercept("web", str(port))
            clients = [stage.nodes["node1"].connect() for _ in range(1000)]
            for client in clients:
                client.conn.write(b"hello")
            await until(lambda: all(client.received for client in clients), "all answers", seconds=30)
            for client in clients:
                client.conn.reset()

    asyncio.run(run())


def test_asking_twice_is_one_intercept(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage, local_app() as port, local_app(b"the other one") as other:
            laptop = stage.laptop()
            first = await laptop.intercept("web", str(port))
            again = await laptop.intercept("deploy/web", f"{other}:8080")
            assert (again["name"], again["created"]) == (first["name"], False)
            assert len(stage.store.list(INTERCEPTS)) == 1
            client = stage.nodes["node1"].connect()
            client.conn.write(b"hello")
            await until(lambda: client.received == b"the other one", "the app asked for last")
            with pytest.raises(ConflictError) as caught:
                await laptop.intercept("web", str(port), onDisconnect="fail")
            assert f"tproxy leave {first['name']}" in caught.value.hint

    asyncio.run(run())


def test_somebody_elses_intercept_is_named(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage:
            first = await stage.laptop("bob").intercept("web")
            with pytest.raises(ConflictError) as caught:
                await stage.laptop("ann").intercept("svc/web", "3000:80")
            assert caught.value.exit_code == 5
            assert all(word in caught.value.message for word in ("bob", first["name"], "since", "Deployment/web"))
            assert [each["metadata"]["name"] for each in stage.store.list(INTERCEPTS)] == [first["name"]]
            assert len(stage.store.list(SESSIONS)) == 1
            assert stage.nodes["node1"].steered

    asyncio.run(run())


def test_a_pod_that_cannot_be_steered_is_refused(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path, pods=0) as stage:
            stage.add_pod("web-0", "node1", hostNetwork=True)
            with pytest.raises(ClusterError) as caught:
                await stage.laptop().intercept("web", "3000:8080")
            assert "web-0" in caught.value.message
            assert "network" in caught.value.message
            assert _nothing_left(stage)

    asyncio.run(run())


def test_a_silent_node_is_named_when_the_time_is_over(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path, ("node1", "node2"), pods=2) as stage:
            stage.nodes["node2"].silent = True
            laptop = stage.laptop()
            with pytest.raises(ClusterError) as caught:
                await laptop.intercept("web", "3000", seconds=0.7)
            assert "web-1 on node2" in caught.value.message
            assert "web-0" not in caught.value.message
            assert "0.7 s" in caught.value.message
            assert any("1 of 2" in line for line in laptop.said)
            assert _nothing_left(stage)
            assert laptop.engine.idle

    asyncio.run(run())


def test_interrupted_it_leaves_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage:
            stage.nodes["node1"].silent = True
            laptop = stage.laptop()
            asked = asyncio.get_running_loop().create_task(laptop.intercept("web"))
            await until(lambda: stage.store.list(INTERCEPTS), "the object")
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
            await until(lambda: _nothing_left(stage), "nothing left")
            await until(lambda: laptop.engine.idle, "no session")

    asyncio.run(run())


def test_a_node_without_daemon_is_named(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage:
            stage.add_pod("web-7", "node7")
            with pytest.raises(ClusterError) as caught:
                await stage.laptop().intercept("web")
            assert "node7" in caught.value.message
            assert "kubectl" in caught.value.hint
            assert _nothing_left(stage)

    asyncio.run(run())


def test_tproxy_is_not_installed(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path, nodes=(), pods=0, crds=False) as stage:
            with pytest.raises(ClusterError) as caught:
                await stage.laptop().intercept("web", "3000:80")
            assert "not installed" in caught.value.message
            assert caught.value.exit_code == 3

    asyncio.run(run())


def test_the_missing_right_is_named(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage:
            version = stage.store.version
            with pytest.raises(DeniedError) as caught:
                await stage.laptop("viewer").intercept("web")
            assert "create sessions.tproxy.dev" in caught.value.message
            assert caught.value.exit_code == 4
            assert stage.store.version == version

    asyncio.run(run())


def test_without_the_right_to_forward_ports_nobody_waits(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage:
            began = time.monotonic()
            with pytest.raises(DeniedError) as caught:
                await stage.laptop("getter").intercept("web", seconds=60)
            assert "pods/portforward" in caught.value.message
            assert time.monotonic() - began < 10
            assert _nothing_left(stage)

    asyncio.run(run())


def test_with_a_node_daemon_of_another_age_nobody_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tproxy_cli.daemon.cluster.Hello", functools.partial(Hello, version=99, min_version=99))

    async def run() -> None:
        async with staged(tmp_path) as stage:
            began = time.monotonic()
            with pytest.raises(ClusterError) as caught:
                await stage.laptop().intercept("web", seconds=60)
            assert "upgrade tproxy on the node" in caught.value.message
            assert time.monotonic() - began < 10
            assert _nothing_left(stage)

    asyncio.run(run())


def test_a_developer_without_other_rights_can_do_it(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage, local_app() as port:
            laptop = stage.laptop("dev")
            await laptop.intercept("web", str(port))
            await laptop.leave(everything=True)
            assert _nothing_left(stage)

    asyncio.run(run())


def test_no_cluster_there(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage:
            laptop = stage.laptop()
            laptop.where = {"cluster": {"kubeconfig": str(tmp_path / "missing")}}
            with pytest.raises(ClusterError):
                await laptop.intercept("web")

    asyncio.run(run())


def test_leaving_what_is_not_there(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage:
            laptop = stage.laptop()
            with pytest.raises(InvalidError) as caught:
                await laptop.leave("web")
            assert "web" in caught.value.message
            result = await laptop.intercept("web")
            with pytest.raises(InvalidError) as caught:
                await laptop.leave("svc/web")
            assert result["name"] in caught.value.hint
            assert (await laptop.leave(everything=True))["left"]
            assert (await laptop.leave(everything=True))["left"] == []

    asyncio.run(run())


def test_connections_under_way_survive_leave(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage, local_app() as port:
            laptop = stage.laptop()
            await laptop.intercept("web", str(port))
            client = stage.nodes["node1"].connect()
            await until(lambda: client.opened, "the connection")
            await laptop.leave("web")
            assert not stage.nodes["node1"].steered
            client.conn.write(b"still there?")
            await until(lambda: client.received == b"from the laptop", "an answer after leaving")
            assert laptop.engine.status()[0]["nodes"][0]["connections"] == 1
            client.conn.write_eof()
            await until(lambda: client.ended, "the end")
            await until(lambda: _nothing_left(stage), "the session's end after the last connection's")

    asyncio.run(run())


def test_pods_going_while_we_wait_are_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tproxy_cli.daemon.intercepting.LOOK_SECONDS", 0.05)

    async def run() -> None:
        async with staged(tmp_path, ("node1", "node2"), pods=2) as stage:
            stage.nodes["node2"].silent = True
            laptop = stage.laptop()
            asked = asyncio.get_running_loop().create_task(laptop.intercept("web"))
            await until(lambda: any("1 of 2" in line for line in laptop.said), "waiting")
            stage.store.delete(PODS, "web-1", "shop")
            result = await asked
            assert [pod["name"] for pod in result["pods"]] == ["web-0"]

    asyncio.run(run())


def test_every_error_is_one_a_person_can_read(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage:
            laptop = stage.laptop()
            for target, port in (("a/b/c", "3000"), ("web", "x"), ("web", "70000"), ("nope", "1"), ("Foo/web", "3000")):
                with pytest.raises(TproxyError) as caught:
                    await laptop.intercept(target, port)
                assert caught.value.message
                assert caught.value.hint

    asyncio.run(run())
