"""UDP flows that nodes open: to the local app and back."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.cli_daemon.harness import Client, Stage, staged, until
from tproxy.errors import InvalidError
from tproxy.model.flow import ResetReason


class Echo(asyncio.DatagramProtocol):
    """Answers with `app:` and what came."""

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._transport.sendto(b"app:" + data, addr)


@contextlib.asynccontextmanager
async def udp_app(host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[int]:
    """A local app; its port."""
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Echo, (host, port))
    try:
        yield transport.get_extra_info("sockname")[1]
    finally:
        transport.close()


async def says(client: Client, payload: bytes) -> bytes:
    before = len(client.datagrams)
    assert client.conn is not None
    assert client.conn.write_datagram(payload)
    await until(lambda: len(client.datagrams) > before, "an answer")
    return client.datagrams[-1]


def flow(stage: Stage) -> Client:
    return stage.nodes["node1"].connect(53, protocol="UDP")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_to_the_local_app_on_either_loopback(tmp_path: Path, host: str) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage, udp_app(host) as port:
            laptop = stage.laptop()
            result = await laptop.intercept("web", f"{port}:53/udp")
            assert result["ports"] == [{"local": port, "remote": 53, "protocol": "UDP"}]
            assert result["warnings"] == []
            one, other = flow(stage), flow(stage)
            for payload in (b"", b"1", bytes(9000)):
                assert await says(one, payload) == b"app:" + payload
                assert await says(other, payload) == b"app:" + payload
            await laptop.leave("web")

    asyncio.run(run())


def test_nobody_listens(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            laptop = stage.laptop()
            result = await laptop.intercept("web", f"{port}:53/udp")
            assert result["warnings"] == [
                f"nothing listens on port {port}/udp of this laptop: connections are refused until your app does"
            ]
            client = flow(stage)
            assert client.conn is not None
            client.conn.write_datagram(b"?")
            await until(lambda: client.reset is ResetReason.REFUSED, "the refusal")
            async with udp_app(port=port):
                assert await says(flow(stage), b"?") == b"app:?"
            await laptop.leave("web")

    asyncio.run(run())


def test_of_an_intercept_not_made_here(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage, udp_app() as port:
            laptop = stage.laptop()
            await laptop.intercept("web", f"{port}:53/udp")
            node = stage.nodes["node1"]
            for client in (node.connect(53, "another", "UDP"), node.connect(53, protocol="UDP")):
                assert client.conn is not None
                client.conn.write_datagram(b"?")
                if client.conn.request.intercept == "another":
                    await until(lambda: client.reset is ResetReason.DENIED, "the refusal")  # noqa: B023
                else:
                    await until(lambda: client.datagrams == [b"app:?"], "the answer")  # noqa: B023
            await laptop.leave("web")

    asyncio.run(run())


def test_both_protocols_of_one_port(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage, udp_app() as port:
            laptop = stage.laptop()
            await laptop.intercept("web", f"{port}:8080/udp", f"{port}:8080/tcp")
            node = stage.nodes["node1"]
            assert await says(node.connect(protocol="UDP"), b"?") == b"app:?"
            tcp = node.connect()
            await until(lambda: tcp.reset is ResetReason.REFUSED, "the refusal of TCP, which nobody serves")
            await laptop.leave("web")

    asyncio.run(run())


def test_what_udp_does_not_have(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage:
            laptop = stage.laptop()
            for options, sentence in (
                ({"http": {"method": "GET"}}, "datagrams have no requests"),
                ({"proxyProtocol": "v1"}, "--proxy-protocol is for TCP"),
                ({"run": "r1"}, "`tproxy run` gets no datagrams"),
            ):
                with pytest.raises(InvalidError, match=sentence):
                    await laptop.intercept("web", "5353:53/udp", **options)
            assert laptop.engine.status() == []

    asyncio.run(run())
