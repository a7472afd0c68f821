"""What else goes by a port with personal intercepts: WebSockets, event streams, and protocols that aren't HTTP."""

import asyncio
import contextlib
import json
import shutil
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from tests.kernel.namespaces import Namespace
from tests.lab.developers import Developer, developers
from tests.lab.laptop import network
from tests.lab.scene import PORT
from tproxy.kube.port import DEPLOYMENTS, NAMESPACES
from tproxy.rpc import certificate

REDIS, SMTP, SILENT, POSTGRES, TLS = 6379, 2525, 7000, 5432, 8443
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
        command: [python, -m, aiosmtpd, -n, -l, "0.0.0.0:{smtp}", -c, aiosmtpd.handlers.Sink]
        ports: [{{containerPort: {smtp}}}]
        readinessProbe: {{tcpSocket: {{port: {smtp}}}, periodSeconds: 1}}
      - name: postgres
        command: {postgres}
        ports: [{{containerPort: {port}}}]
        readinessProbe: {{tcpSocket: {{port: {port}}}, periodSeconds: 1}}
      - name: tls
        command: [python, -c, {tls_server}, {certificate}]
        ports: [{{containerPort: {tls}}}]
        readinessProbe: {{tcpSocket: {{port: {tls}}}, periodSeconds: 1}}
      - name: echo
        command: [python, -c, {echo}]
        ports: [{{containerPort: {silent}}}]
        readinessProbe: {{tcpSocket: {{port: {silent}}}, periodSeconds: 1}}
"""
ECHO = f"""
import socketserver
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)
        self.request.sendall(b"the end")
socketserver.ThreadingTCPServer.allow_reuse_address = True
socketserver.ThreadingTCPServer(("", {SILENT}), Echo).serve_forever()
"""
TLS_SERVER = f"""
import asyncio, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1])
context.set_alpn_protocols(["h2", "http/1.1"])
names = {{}}
context.sni_callback = lambda sock, name, context: names.update({{sock: name}})
async def serve(reader, writer):
    tls = writer.get_extra_info("ssl_object")
    request = await reader.readuntil(b"\\r\\n\\r\\n")
    writer.write(f"{{names.get(tls)}} {{tls.selected_alpn_protocol()}} {{len(request)}}".encode())
    writer.close()
async def main():
    async with await asyncio.start_server(serve, "", {TLS}, ssl=context) as server:
        await server.serve_forever()
asyncio.run(main())
"""
MAIL = """
import smtplib, sys, time
began = time.monotonic()
with smtplib.SMTP(sys.argv[1], int(sys.argv[2]), timeout=10) as server:
    took = time.monotonic() - began
    text = "Subject: GET / HTTP/1.1\\r\\n\\r\\n" + "x-user: ada\\r\\n" * 10_000
    server.sendmail("ada@example.com", ["eve@example.com"], text)
    print(took, server.noop()[0])
"""


@contextlib.contextmanager
def database() -> Iterator[list[str]]:
    """The command of a PostgreSQL server with a fresh database; it refuses to be root's."""
    [*_, programs] = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    with tempfile.TemporaryDirectory(prefix="tproxy-postgres-") as name:
        shutil.chown(name, "postgres", "postgres")
        data = Path(name) / "data"
        make = (programs / "initdb", "-D", data, "-U", "shop", "-A", "trust", "--no-sync", "--no-locale")
        subprocess.run(make, user="postgres", group="postgres", extra_groups=[], check=True, capture_output=True)
        with (data / "pg_hba.conf").open("a") as rules:
            rules.write("host all all all trust\n")
        become = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups")
        yield [*become, f"{programs}/postgres", f"-D{data}", f"-p{POSTGRES}", "-h*", "-F", "-k", ""]


@pytest.fixture(scope="module")
def ada(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Developer]:
    """She intercepts requests on every port."""
    lab.client.create(NAMESPACES, {"metadata": {"name": "protocols"}})
    made = certificate.make()
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    file.write_bytes(made.key + made.pem)
    programs = {"echo": json.dumps(ECHO), "tls_server": json.dumps(TLS_SERVER), "certificate": json.dumps(str(file))}
    numbers = {"redis": REDIS, "smtp": SMTP, "silent": SILENT, "port": POSTGRES, "tls": TLS}
    with database() as postgres, developers(lab, "protocols") as (one, _):
        lab.apply(OTHERS.format(postgres=json.dumps(postgres), **programs, **numbers), "protocols")
        one.begin()
        ports = [f"--port={one.port}:{port}" for port in numbers.values()]
        one.json("intercept", "others", *ports, "-n", "protocols", "--http-header", "x-user=ada")
        yield one
        one.end()
        lab.client.delete(DEPLOYMENTS, "others", "protocols")
        lab.wait(lambda: not lab.pods("protocols", "others-"), "the database's end")


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


def test_websockets(ada: Developer, outside: Namespace) -> None:
    async def scenario(**headers: str) -> tuple[str, bool]:
        host = address(ada, "web-")
        sock = await outside.connect(host, PORT)
        big = "ä" * 100_000
        async with connect(f"ws://{host}:{PORT}/ws", sock=sock, additional_headers=headers, open_timeout=10) as socket:
            who = str(await socket.recv())
            for said in ("hello", big, ""):
                await socket.send(said)
                if await socket.recv() != said:
                    return who, False
            await (await socket.ping())
            return who, True

    who, echoed = asyncio.run(scenario())
    assert who.startswith("web-")
    assert echoed
    assert asyncio.run(scenario(**{"X-User": "ada"})) == ("ada", True)


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


def test_postgresql(ada: Developer) -> None:
    def psql(*commands: str) -> list[str]:
        wanted = [word for command in commands for word in ("-c", command)]
        line = ("psql", "-h", address(ada, "others-"), "-U", "shop", "-d", "postgres", "-AtqX", *wanted)
        return str(ada.lab.exec("user", *line).stdout).splitlines()

    assert psql("select 'GET / HTTP/1.1', 'x-user: ada'") == ["GET / HTTP/1.1|x-user: ada"]
    counted = psql(
        "create table page (path text)",
        "begin",
        "copy page from program 'seq 100000'",
        "insert into page select repeat('x', 1000000)",
        "commit",
        "select count(*), max(length(path)) from page",
    )
    assert counted == ["100001|1000000"]
    assert len(psql("select path from page")[-1]) == 1_000_000


def test_a_server_that_speaks_first(ada: Developer) -> None:
    command = ("python", "-c", MAIL, address(ada, "others-"), str(SMTP))
    took, status = ada.lab.exec("user", *command).stdout.split()
    assert float(took) < 1
    assert int(status) == 250


def test_tls_is_between_client_and_app(ada: Developer, outside: Namespace) -> None:
    """Its names of server and protocol, too; what is said in it is nobody else's to decide on."""

    async def scenario() -> str:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["http/1.1"])
        async with asyncio.timeout(10):
            sock = await outside.connect(address(ada, "others-"), TLS)
            reader, writer = await asyncio.open_connection(sock=sock, ssl=context, server_hostname="shop.example")
            writer.write(b"GET / HTTP/1.1\r\nX-User: ada\r\n\r\n")
            said = await reader.read()
            writer.transport.abort()
            return said.decode()

    assert asyncio.run(scenario()) == "shop.example http/1.1 31"


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
