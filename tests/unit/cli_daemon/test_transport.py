"""`--transport direct`: tunnels past the API server, what is said where there are none, and how long it holds."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tproxy_cli.daemon import dial, tunnels

from tests.unit.cli_daemon.harness import SYSTEM, Stage, local_app, staged, until
from tproxy.errors import ClusterError, DeniedError, InvalidError
from tproxy.kube.port import PODS
from tproxy.model.direct import ADDRESS, CERTIFICATE, DirectWay
from tproxy.rpc import certificate

DIRECT = {"transport": "direct"}
FORWARD = {"transport": "port-forward"}


def where(laptop: Any, transport: dict[str, str]) -> dict[str, Any]:
    """The request's part that names the cluster, with a transport."""
    return {"cluster": laptop.where["cluster"] | transport}


def annotate(stage: Stage, pod: str, **annotations: str) -> None:
    stage.store.patch(PODS, pod, {"metadata": {"annotations": annotations}}, SYSTEM)


def tunnel(laptop: Any) -> tuple[str, str, bool]:
    """State and transport of the only tunnel, and whether it has an address of its own."""
    nodes = [(status, node) for status in laptop.engine.status() for node in status["nodes"]]
    if not nodes:
        return "", "", False
    [(status, node)] = nodes
    assert status["transport"] == node["transport"]
    return node["state"], node["transport"], bool(node["address"])


@pytest.mark.parametrize("library", ["", "grpcio"], ids=["ours", "library"])
@pytest.mark.parametrize("transport", [DIRECT, FORWARD], ids=["direct", "port-forward"])
def test_a_tunnel_carries_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transport: dict[str, str], library: str
) -> None:
    monkeypatch.setenv(dial.LIBRARY_VARIABLE, library)

    async def run() -> None:
        async with staged(tmp_path) as stage, local_app() as port:
            await stage.expose("node1")
            laptop = stage.laptop()
            await laptop.intercept("web", f"{port}:http", **where(laptop, transport))
            assert tunnel(laptop) == ("connected", transport["transport"], transport is DIRECT)
            client = stage.nodes["node1"].connect()
            assert client.conn is not None
            client.conn.write(b"hello")
            await until(lambda: client.received == b"from the laptop", "the local app's answer")

    asyncio.run(run())


def test_an_unknown_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(dial.LIBRARY_VARIABLE, "other")

    async def run() -> None:
        async with staged(tmp_path) as stage:
            laptop = stage.laptop()
            with pytest.raises(InvalidError, match="TPROXY_GRPC is 'other'"):
                await laptop.intercept()

    asyncio.run(run())


def test_port_forwards_are_what_nobody_has_to_ask_for(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage:
            await stage.expose("node1")
            laptop = stage.laptop()
            await laptop.intercept()
            assert tunnel(laptop) == ("connected", "port-forward", False)

    asyncio.run(run())


def test_it_holds_until_it_is_said_anew_and_for_the_next_daemon(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage:
            await stage.expose("node1")
            laptop = stage.laptop()
            await laptop.intercept(**where(laptop, DIRECT))
            await laptop.intercept("web", "3001:8080")
            assert tunnel(laptop) == ("connected", "direct", True)
            await laptop.engine.suspend()
            again = stage.laptop(state="ann")
            await until(lambda: tunnel(again)[0] == "connected", "the session taken up")
            assert tunnel(again) == ("connected", "direct", True)
            await again.intercept("web", "3002:8080", **where(again, FORWARD))
            await until(lambda: tunnel(again) == ("connected", "port-forward", False), "the other transport")

    asyncio.run(run())


def test_a_right_to_port_forwards_is_not_needed(tmp_path: Path) -> None:
    """And the rights of a developer do, as the chart gives them."""

    async def run() -> None:
        async with staged(tmp_path) as stage:
            await stage.expose("node1")
            laptop = stage.laptop("getter")
            with pytest.raises(DeniedError):
                await laptop.intercept()
            await laptop.intercept(**where(laptop, DIRECT))
            assert tunnel(laptop)[:2] == ("connected", "direct")

    asyncio.run(run())


def test_daemons_that_are_not_exposed(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage:
            laptop = stage.laptop()
            with pytest.raises(ClusterError, match="on node1 has no address for direct connections") as caught:
                await laptop.intercept(**where(laptop, DIRECT))
            assert "`--transport port-forward`" in caught.value.hint
            assert "`direct.enabled`" in caught.value.hint

    asyncio.run(run())


def test_an_address_that_cannot_be_reached(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage:
            annotate(stage, await stage.expose("node1"), **{ADDRESS: "127.0.0.1:1"})
            laptop = stage.laptop()
            with pytest.raises(ClusterError, match=r"node1 at 127\.0\.0\.1:1: connection refused") as caught:
                await laptop.intercept(**where(laptop, DIRECT))
            assert "`--transport port-forward`" in caught.value.hint

    asyncio.run(run())


def test_another_certificate_is_refused_and_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dial, "FRESH_SECONDS", 0.0)

    async def run() -> None:
        async with staged(tmp_path) as stage:
            pod = await stage.expose("node1")
            laptop = stage.laptop()
            await laptop.intercept(**where(laptop, DIRECT))
            [node] = stage.nodes.values()
            other = DirectWay("127.0.0.1", 1, certificate.make().der).annotations()[CERTIFICATE]
            annotate(stage, pod, **{CERTIFICATE: other})
            for stream in node.sessions.streams():
                stream.close("the test ends it")
            await until(lambda: said(caplog), "a refusal")
            await asyncio.sleep(0.5)  # several attempts
            assert len(said(caplog)) == 1
            assert not node.sessions.streams()
            with pytest.raises(ClusterError, match="another certificate than the one it published"):
                await laptop.intercept("web", "3001:8080")

    def said(log: pytest.LogCaptureFixture) -> list[str]:
        return [record.message for record in log.records if "another certificate" in record.message]

    asyncio.run(run())


def test_nonsense_in_annotations_is_a_sentence(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage:
            annotate(stage, await stage.expose("node1"), **{ADDRESS: "unix:/run/x:1"})
            laptop = stage.laptop()
            with pytest.raises(InvalidError, match="neither a host's name nor its address"):
                await laptop.intercept(seconds=3, **where(laptop, DIRECT))

    asyncio.run(run())


def test_a_request_with_another_transport_is_not_understood(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage:
            laptop = stage.laptop()
            with pytest.raises(InvalidError, match="transport"):
                await laptop.intercept(**where(laptop, {"transport": "pigeon"}))

    asyncio.run(run())


def test_over_a_long_link_connections_are_spread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over streams by port-forwards of their own, and `leave` ends all of them."""
    monkeypatch.setattr(tunnels, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(tunnels, "LONG_SECONDS", 0.0)

    async def run() -> None:
        async with staged(tmp_path) as stage, local_app() as port:
            laptop = stage.laptop()
            await laptop.intercept("web", f"{port}:http")
            node = stage.nodes["node1"]
            await until(lambda: len(node.sessions.streams()) == tunnels.STREAMS, "all streams")
            clients = [node.connect() for _ in range(2 * tunnels.STREAMS)]
            for client in clients:
                assert client.conn is not None
                client.conn.write(b"hello")
            await until(lambda: all(each.received == b"from the laptop" for each in clients), "answers")
            assert [stream.stats.connections for stream in node.sessions.streams()] == [2] * tunnels.STREAMS
            [status] = laptop.engine.status()
            [shown] = status["nodes"]
            assert (shown["streams"], shown["connections"]) == (tunnels.STREAMS, 2 * tunnels.STREAMS)
            for client in clients:
                assert client.conn is not None
                client.conn.write_eof()
            await laptop.leave("web")
            await until(lambda: not node.sessions.streams(), "closed streams")

    asyncio.run(run())
