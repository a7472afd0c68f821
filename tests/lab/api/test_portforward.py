"""Port-forward by WebSocket: the raw protocol, the official client, and tproxy's own."""

import asyncio
import contextlib
import hashlib
import http.client
import json
import socket
import struct
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import aiohttp
import pytest
from kubernetes import client
from kubernetes.stream import portforward

from tproxy.kube import config
from tproxy.kube.api import ApiCluster
from tproxy.kube.port import PODS
from tproxy.kube.portforward import PortForward

from .conftest import Server

PROTOCOL = "v4.channel.k8s.io"
HEADERS = {"Authorization": "Bearer admin-token"}
MIB = 1024 * 1024


def url(server: Server, *ports: int, pod: str = "p") -> str:
    query = "&".join(f"ports={port}" for port in ports)
    return f"{server.url}/api/v1/namespaces/default/pods/{pod}/portforward?{query}"


def unused_port() -> int:
    """A port that was free a moment ago and that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def app(talk: Talk) -> AsyncIterator[int]:
    """An app in the pod that closes each connection after `talk`; yields its port and ends with its connections."""
    talking: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talking.add(task)
        with contextlib.suppress(ConnectionError):
            await talk(reader, writer)
            writer.close()
            await writer.wait_closed()

    listening = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        async with asyncio.timeout(10):
            await asyncio.gather(*talking)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


@contextlib.asynccontextmanager
async def websocket(server: Server, *ports: int) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """A port-forward whose first frames have been read and found right."""
    async with asyncio.timeout(20):
        async with (
            aiohttp.ClientSession(headers=HEADERS) as session,
            session.ws_connect(url(server, *ports), protocols=[PROTOCOL], max_msg_size=0) as ws,
        ):
            sock = ws.get_extra_info("socket")
            assert ws.protocol == PROTOCOL
            for channel, port in enumerate(port for port in ports for _ in range(2)):
                assert await ws.receive_bytes() == bytes((channel,)) + port.to_bytes(2, "little")
            yield ws
        while sock.fileno() != -1:  # noqa: ASYNC110  (aiohttp closes it a little later and tells nobody)
            await asyncio.sleep(0)


def test_two_ports_each_with_its_channels(server: Server) -> None:
    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read(100)).upper())

    async def scenario() -> None:
        async with app(echo) as first, app(shout) as second, websocket(server, first, second) as ws:
            await ws.send_bytes(b"\x00hello")
            assert await ws.receive_bytes() == b"\x00hello"
            await ws.send_bytes(b"\x02hello")
            assert await ws.receive_bytes() == b"\x02HELLO"
            # The second port has ended, the first has not.
            await ws.send_bytes(b"\x00again")
            assert await ws.receive_bytes() == b"\x00again"
            await ws.send_bytes(b"\x09nobody reads this")
            await ws.send_str("nor this")
            await ws.send_bytes(b"\x00last")
            assert await ws.receive_bytes() == b"\x00last"

    server.running_pod()
    asyncio.run(scenario())


def test_the_websocket_closes_when_the_app_does(server: Server) -> None:
    async def say_bye(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"bye")

    async def scenario() -> None:
        async with app(say_bye) as port, websocket(server, port) as ws:
            assert await ws.receive_bytes() == b"\x00bye"
            assert (await ws.receive()).type is aiohttp.WSMsgType.CLOSE

    server.running_pod()
    asyncio.run(scenario())


def test_the_app_sees_the_client_go(server: Server) -> None:
    async def scenario() -> None:
        ended = asyncio.Event()

        async def wait_for_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            assert await reader.read() == b"all of it"
            ended.set()

        async with app(wait_for_end) as port:
            async with websocket(server, port) as ws:
                await ws.send_bytes(b"\x00all of it")
            async with asyncio.timeout(10):
                await ended.wait()

    server.running_pod()
    asyncio.run(scenario())


def test_a_refused_connection_is_told_on_the_error_channel(server: Server) -> None:
    async def scenario() -> None:
        port = unused_port()
        async with websocket(server, port) as ws:
            error = await ws.receive_bytes()
            assert error[:1] == b"\x01"
            assert error[1:].decode() == (
                f"error forwarding port {port} to pod default/p:"
                f" failed to connect to localhost:{port} in the pod: connection refused"
            )
            assert (await ws.receive()).type is aiohttp.WSMsgType.CLOSE

    server.running_pod()
    asyncio.run(scenario())


def test_an_app_that_does_not_read_stops_the_client(server: Server) -> None:
    async def scenario() -> None:
        sent, over = 0, asyncio.Event()

        async def read_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await over.wait()
            writer.transport.abort()

        async with app(read_nothing) as port, websocket(server, port) as ws:
            with contextlib.suppress(TimeoutError):
                while sent < 256 * MIB:
                    async with asyncio.timeout(1):
                        await ws.send_bytes(bytes(65537))
                    sent += 65536
            over.set()
            # The end comes, after the reason if the reset was noticed by the reading side.
            while (message := await ws.receive()).type is aiohttp.WSMsgType.BINARY:
                assert message.data.endswith(b"connection reset by peer")
            assert message.type is aiohttp.WSMsgType.CLOSE
        assert sent < 32 * MIB

    server.running_pod()
    asyncio.run(scenario())


def test_a_client_that_does_not_read_stops_the_app(server: Server) -> None:
    async def scenario() -> None:
        sent, stuck = 0, asyncio.Event()

        async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            with contextlib.suppress(TimeoutError):
                while sent < 256 * MIB:
                    writer.write(bytes(65536))
                    async with asyncio.timeout(1):
                        await writer.drain()
                    sent += 65536
            writer.transport.abort()
            stuck.set()

        async with app(talk) as port, websocket(server, port) as ws:
            await stuck.wait()
            # What had been taken still arrives, and then the end.
            while (message := await ws.receive()).type is aiohttp.WSMsgType.BINARY:
                pass
            assert message.type is aiohttp.WSMsgType.CLOSE
        assert sent < 128 * MIB  # what the buffers of kernels take on the way varies

    server.running_pod()
    asyncio.run(scenario())


def test_a_stuck_client_that_goes_is_no_error(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        stuck, ended = asyncio.Event(), asyncio.Event()

        async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                while True:
                    writer.write(bytes(65536))
                    try:
                        async with asyncio.timeout(0.5):
                            await writer.drain()
                    except TimeoutError:
                        stuck.set()
                        await writer.drain()
            ended.set()

        async with app(talk) as port, websocket(server, port) as ws:
            await stuck.wait()
            sock = ws.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            ws._response.connection.transport.abort()
            await ended.wait()

    server.running_pod()
    asyncio.run(scenario())
    assert caplog.records == []


@pytest.mark.parametrize(
    ("pod", "query", "token", "upgrade", "code", "words"),
    [
        ("none", "ports=80", "admin", True, 404, 'pods "none" not found'),
        ("waiting", "ports=80", "admin", True, 400, "pod is not running. Current status=Pending"),
        ("p", "", "admin", True, 400, 'query parameter "ports" is required'),
        ("p", "ports=0", "admin", True, 400, "unable to parse '0' as a port"),
        ("p", "ports=80,x", "admin", True, 400, "unable to parse 'x' as a port"),
        ("p", "ports=80", "admin", False, 400, "Upgrade request required"),
        ("p", "ports=80", "nemo", True, 403, 'User "nemo" cannot get resource "pods/portforward"'),
    ],
)
def test_refusals(server: Server, pod: str, query: str, token: str, upgrade: bool, code: int, words: str) -> None:
    server.running_pod()
    waiting = {"metadata": {"name": "waiting"}, "spec": {"containers": [{"name": "c"}]}}
    with_headers = {"Authorization": f"Bearer {token}-token"}
    if upgrade:
        with_headers |= {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Protocol": PROTOCOL}
        with_headers |= {"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    server.call(lambda store: store.create(PODS, waiting))
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("GET", f"/api/v1/namespaces/default/pods/{pod}/portforward?{query}", headers=with_headers)
    answer = connection.getresponse()
    body = json.loads(answer.read())
    connection.close()
    assert (answer.status, body["kind"], body["code"]) == (code, "Status", code)
    assert words in body["message"]


@pytest.fixture
def web_app() -> Iterator[int]:
    """A web server; yields its port."""

    class Hello(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"hello " * 100_000)

        def log_message(self, *_: object) -> None:
            pass

    listening = HTTPServer(("127.0.0.1", 0), Hello)
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    yield listening.server_port
    listening.shutdown()
    thread.join()
    listening.server_close()


def test_the_official_client(server: Server, web_app: int) -> None:
    server.running_pod()
    configuration = client.Configuration(host=server.url)
    configuration.api_key["authorization"] = "Bearer admin-token"
    with client.ApiClient(configuration) as api:
        refused = unused_port()
        forward = portforward(
            client.CoreV1Api(api).connect_get_namespaced_pod_portforward, "p", "default", ports=f"{web_app},{refused}"
        )
        link = forward.socket(web_app)
        link.settimeout(10)
        link.sendall(b"GET / HTTP/1.0\r\n\r\n")
        received = b""
        while data := link.recv(65536):
            received += data
        assert received.endswith(b"hello " * 100_000)
        assert "connection refused" in forward.error(refused)
        assert forward.error(web_app) is None
        link.close()
        forward.close()
        forward.websocket.shutdown()  # the client forgets to


def test_tproxy_s_own_client(server: Server, kubeconfig: Path, tmp_path: Path) -> None:
    """32 MiB each way at once on each of four connections, with equal checksums."""
    size = 32 * MIB

    async def scenario() -> None:
        cluster = ApiCluster(config.load(str(kubeconfig)))
        async with app(echo) as port:
            forward = PortForward(cluster, "default", "p", port, str(tmp_path / "sockets"))
            try:
                path = await forward.start()
                async with asyncio.timeout(60):
                    await asyncio.gather(*(exchange(path) for _ in range(4)))
            finally:
                await forward.close()
                await cluster.close()

    async def exchange(path: str) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        block, sent, received, left = bytes(range(256)) * 1024, hashlib.sha256(), hashlib.sha256(), size

        async def send() -> None:
            for _ in range(size // len(block)):
                writer.write(block)
                sent.update(block)
                await writer.drain()

        async def receive() -> None:
            nonlocal left
            while left:
                data = await reader.read(MIB)
                assert data, "the connection ended early"
                received.update(data)
                left -= len(data)

        await asyncio.gather(send(), receive())
        writer.close()
        assert sent.digest() == received.digest()

    server.running_pod()
    asyncio.run(scenario())
