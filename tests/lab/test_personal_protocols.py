"""What else goes by a port with personal intercepts: WebSockets, event streams, and protocols that aren't HTTP."""

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.kernel.namespaces import Namespace
from tests.lab.developers import Developer, developers
from tests.lab.laptop import network
from tests.lab.scene import PORT
from tproxy.kube.port import NAMESPACES

REDIS, SMTP, SILENT = 6379, 2525, 7000
OTHERS = """
apiVersion: apps/v1
kind: Deployment
metadata: {{name: others}}
spec:
  replicas: 1
  selector: {{matchLabels: {{app: others}}}}
  template:
    metadata: {{labels: {{app: others}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: redis
        command: [redis-server, --port, "{redis}", --save, "", --protected-mode, "no", --bind, "*"]
        ports: [{{containerPort: {redis}}}]
        readinessProbe: {{tcpSocket: {{port: {redis}}}, periodSeconds: 1}}
      - name: smtp
        command: [python, -c, {smtp}]
        ports: [{{containerPort: {port}}}, {{containerPort: {silent}}}]
        readinessProbe: {{tcpSocket: {{port: {port}}}, periodSeconds: 1}}
"""
BANNER = f"""
import socketserver
class Mail(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"220 mail ESMTP\\r\\n")
        while line := self.rfile.readline():
            self.wfile.write(b"250 " + line)
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)
        self.request.sendall(b"the end")
import threading
socketserver.ThreadingTCPServer.allow_reuse_address = True
threading.Thread(target=socketserver.ThreadingTCPServer(("", {SILENT}), Echo).serve_forever).start()
socketserver.ThreadingTCPServer(("", {SMTP}), Mail).serve_forever()
"""


@pytest.fixture(scope="module")
def ada(lab: Any) -> Iterator[Developer]:
    """She intercepts requests on every port."""
    lab.client.create(NAMESPACES, {"metadata": {"name": "protocols"}})
    lab.apply(OTHERS.format(redis=REDIS, smtp=json.dumps(BANNER), port=SMTP, silent=SILENT), "protocols")
    with developers(lab, "protocols") as (one, _):
        one.begin()
        ports = [f"--port={one.port}:{port}" for port in (REDIS, SMTP, SILENT)]
        one.json("intercept", "others", *ports, "-n", "protocols", "--http-header", "x-user=ada")
        yield one
        one.end()


@pytest.fixture(scope="module")
def outside(lab: Any) -> Iterator[Namespace]:
    """Where clients are."""
    place = network(lab.layout.netns("user"))
    yield place
    place.netns.close()


def address(person: Developer, prefix: str) -> str:
    return str(person.lab.pods(person.namespace, prefix)[0]["addresses"][0])


async def connected(place: Namespace, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(sock=await place.connect(host, port))


async def websocket(place: Namespace, host: str, *headers: str) -> list[str]:
    """What a WebSocket says: two text frames."""
    async with asyncio.timeout(10):
        reader, writer = await connected(place, host, PORT)
        lines = [
            *("GET /ws HTTP/1.1", f"Host: {host}", "Connection: Upgrade", "Upgrade: websocket"),
            *("Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Version: 13", *headers, "", ""),
        ]
        writer.write("\r\n".join(lines).encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        writer.write(b"\x81\x85\0\0\0\0hello")
        said = []
        for _ in range(2):
            _, size = await reader.readexactly(2)
            said.append((await reader.readexactly(size)).decode())
        writer.transport.abort()
        return said


def test_websockets(ada: Developer, outside: Namespace) -> None:
    host = address(ada, "web-")
    who, echoed = asyncio.run(websocket(outside, host))
    assert who.startswith("web-")
    assert echoed == "hello"
    assert asyncio.run(websocket(outside, host, "X-User: ada")) == ["ada", "hello"]


def test_event_streams_arrive_as_they_are_sent(ada: Developer, outside: Namespace) -> None:
    async def scenario(*headers: str) -> str:
        async with asyncio.timeout(10):
            reader, writer = await connected(outside, address(ada, "web-"), PORT)
            writer.write("\r\n".join(("GET /events HTTP/1.1", "Host: web", *headers, "", "")).encode())
            seen = b""
            while b" 2\n\n" not in seen:
                seen += await reader.read(4096)
            writer.transport.abort()
            return seen.decode()

    assert "data: ada 0\n\n" in asyncio.run(scenario("x-user: ada"))
    assert "data: web-" in asyncio.run(scenario())


def test_redis(ada: Developer) -> None:
    def cli(*command: str) -> str:
        line = ("redis-cli", "-h", address(ada, "others-"), "-p", str(REDIS), *command)
        return str(ada.lab.exec("user", *line).stdout).strip()

    assert cli("ping") == "PONG"
    assert cli("set", "GET / HTTP/1.1", "x-user: ada") == "OK"
    assert cli("get", "GET / HTTP/1.1") == "x-user: ada"
    bench = ada.lab.exec(
        "user", "redis-benchmark", "-h", address(ada, "others-"), *("-n", "2000", "-P", "8", "-q", "-t", "set")
    )
    assert "requests per second" in bench.stdout


def test_a_server_that_speaks_first(ada: Developer, outside: Namespace) -> None:
    async def scenario() -> float:
        async with asyncio.timeout(10):
            began = time.monotonic()
            reader, writer = await connected(outside, address(ada, "others-"), SMTP)
            assert await reader.readline() == b"220 mail ESMTP\r\n"
            took = time.monotonic() - began
            writer.write(b"EHLO shop\r\n")
            assert await reader.readline() == b"250 EHLO shop\r\n"
            writer.transport.abort()
            return took

    assert asyncio.run(scenario()) < 1


def test_what_is_no_http_is_passed_on_at_once(ada: Developer, outside: Namespace) -> None:
    """Also half a request line, a moment later, and the client's half-close."""

    async def scenario(data: bytes) -> float:
        async with asyncio.timeout(10):
            reader, writer = await connected(outside, address(ada, "others-"), SILENT)
            began = time.monotonic()
            writer.write(data)
            assert await reader.readexactly(len(data)) == data
            took = time.monotonic() - began
            writer.write_eof()
            assert await reader.read() == b"the end"
            writer.close()
            return took

    for data in (
        b"\0binary",
        b"\x16\x03\x01 like TLS",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
        b"hello\n",
        bytes(300_000),
    ):
        assert asyncio.run(scenario(data)) < 0.4
    assert 0.4 < asyncio.run(scenario(b"GET / HT")) < 2


def test_a_local_app_that_is_down_is_named(ada: Developer) -> None:
    ada.stop_app()
    try:
        asked = ("curl", "-sS", "-i", "--max-time", "10", "-H", "x-user: ada", ada.url())
        said = ada.lab.exec("user", *asked).stdout
        head, _, body = said.partition("\n\n")
        assert head.startswith("HTTP/1.1 502 Bad Gateway")
        assert "tproxy-error: local-app-down" in head
        assert f"cannot reach the local app at port {ada.port}: Connection refused (laptop laptop, " in body
    finally:
        ada.start_app()
