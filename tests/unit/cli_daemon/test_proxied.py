"""The local app is told of its real clients."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.unit.cli_daemon.harness import local_app, staged, until
from tests.unit.tunnel.test_proxy_protocol import read
from tproxy.errors import ConflictError
from tproxy.model.flow import Address


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[int, "asyncio.Queue[bytes]"]]:
    """An app that keeps what each client sends, and answers once."""
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        heard.put_nowait(await reader.read())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], heard
    finally:
        server.close()


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_before_the_clients_first_bytes(tmp_path: Path, version: str) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage, listening() as (port, heard):
            laptop = stage.laptop()
            await laptop.intercept("web", str(port), proxyProtocol=version)
            client = stage.nodes["node1"].connect()
            assert client.conn is not None
            client.conn.write(b"payload")
            await until(lambda: client.received == b"hello", "the app's greeting")
            client.conn.write_eof()
            await until(lambda: not heard.empty(), "what the app was told")
            got = heard.get_nowait()
            assert got.endswith(b"payload")
            assert read(got.removesuffix(b"payload")) == (Address("10.99.0.100", 40000), Address("10.244.1.5", 8080))
            await laptop.leave("web")

    asyncio.run(run())


def test_kept_across_a_restart_of_the_daemon(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage, listening() as (port, heard):
            first = stage.laptop()
            await first.intercept("web", str(port), proxyProtocol="v1")
            await first.engine.suspend()
            node = stage.nodes["node1"]
            await until(lambda: not node.steered, "the pod serving by itself")
            [session] = json.loads((tmp_path / "ann.json").read_text())["sessions"]
            assert session["intercepts"][0]["proxy_protocol"] == "v1"
            second = stage.laptop()
            await until(lambda: node.steered, "steering again")
            client = node.connect()
            assert client.conn is not None
            client.conn.write_eof()
            await until(lambda: not heard.empty(), "what the app was told")
            assert heard.get_nowait().startswith(b"PROXY TCP4 10.99.0.100 ")
            await second.leave("web")

    asyncio.run(run())


def test_with_or_without_is_not_the_same_intercept(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage, local_app() as port:
            laptop = stage.laptop()
            await laptop.intercept("web", str(port), proxyProtocol="v1")
            with pytest.raises(ConflictError, match="with other ports or options"):
                await laptop.intercept("web", str(port))
            await laptop.leave("web")

    asyncio.run(run())
