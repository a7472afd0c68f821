"""What is served on the pod's address."""

import asyncio
import socket
import urllib.error
import urllib.request

import pytest
from tproxy_node.http import HttpServer

from tproxy.errors import ClusterError


def fetch(host: str, port: int, path: str, method: str = "GET") -> tuple[int, str]:
    request = urllib.request.Request(f"http://{host}:{port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310 - our own address
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, ""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def test_both_address_families_by_default() -> None:
    async def scenario() -> None:
        port, loop = free_port(), asyncio.get_running_loop()
        unready = "waiting"
        server = HttpServer(lambda: unready, lambda: b"tproxy_tunnels 0.0\n", "text/plain; version=1.0.0")
        await server.start("::", port)
        try:
            for host in ("127.0.0.1", "[::1]"):
                assert await loop.run_in_executor(None, fetch, host, port, "/healthz") == (200, "ok\n")
            assert (await loop.run_in_executor(None, fetch, "127.0.0.1", port, "/readyz"))[0] == 503
            unready = ""
            assert await loop.run_in_executor(None, fetch, "127.0.0.1", port, "/readyz") == (200, "ok\n")
            assert (await loop.run_in_executor(None, fetch, "127.0.0.1", port, "/metrics"))[1].startswith("tproxy_")
            assert (await loop.run_in_executor(None, fetch, "127.0.0.1", port, "/"))[0] == 404
            assert (await loop.run_in_executor(None, fetch, "127.0.0.1", port, "/metrics", "POST"))[0] == 405
        finally:
            await server.close()

    asyncio.run(scenario())


def test_a_taken_port_is_named() -> None:
    async def scenario() -> None:
        server = HttpServer(lambda: "", lambda: b"", "text/plain")
        with (
            socket.create_server(("127.0.0.1", 0)) as taken,
            pytest.raises(ClusterError, match="Address already in use"),
        ):
            await server.start("127.0.0.1", taken.getsockname()[1])
        await server.close()

    asyncio.run(scenario())
