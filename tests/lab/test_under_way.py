"""What a client and the app have under way when their port is intercepted and left: it ends where it began."""

import asyncio
import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.laptop import each_backend, local_app
from tests.lab.test_personal_protocols import POSTGRES, database
from tests.lab.test_pools import PORT, Scene, scene
from tproxy.kube.port import DEPLOYMENTS

__all__ = ["scene"]

GRPC_APP = Path(__file__).with_name("grpc_app.py")
GRPC_PORT, GRPC_LOCAL_PORT = 8085, 3951
TURNS = 2

CHANNEL = """
apiVersion: apps/v1
kind: Deployment
metadata: {{name: channel}}
spec:
  replicas: 1
  selector: {{matchLabels: {{app: channel}}}}
  template:
    metadata: {{labels: {{app: channel}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: app
        command: [python, {app}, serve, --port, "{port}"]
        env: [{{name: POD, value: pod}}]
        ports: [{{name: {name}, containerPort: {port}}}]
        readinessProbe: {{tcpSocket: {{port: {port}}}, periodSeconds: 1}}
"""


DATABASE = """
apiVersion: apps/v1
kind: Deployment
metadata: {{name: database}}
spec:
  replicas: 1
  selector: {{matchLabels: {{app: database}}}}
  template:
    metadata: {{labels: {{app: database}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: app
        command: {command}
        ports: [{{name: db, containerPort: {port}}}]
        readinessProbe: {{tcpSocket: {{port: {port}}}, periodSeconds: 1}}
"""


class Busy(contextlib.AbstractAsyncContextManager["Busy"]):
    """A connection to the app with something under way, made in the outside user's network."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def begun(cls, scene: Scene, first: bytes, until: bytes) -> "Busy":
        sock = await scene.outside.connect(scene.address, PORT)
        one = cls(*await asyncio.open_connection(sock=sock, limit=1 << 24))
        await one.says(first, until)
        return one

    async def heard(self, until: bytes) -> None:
        async with asyncio.timeout(10):
            await self.reader.readuntil(until)

    async def says(self, words: bytes, answer: bytes) -> None:
        self.writer.write(words)
        await self.heard(answer)

    async def ended(self) -> None:
        """The other side ends it, in order or not; raises ConnectionResetError in the latter case."""
        async with asyncio.timeout(10):
            assert await self.reader.read() == b""

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionResetError):
            await self.writer.wait_closed()


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: web\r\n\r\n".encode()


@each_backend
def test_what_is_under_way_ends_where_it_began(scene: Scene) -> None:
    """A download, an event stream, a WebSocket and a transaction, through intercepting and leaving again and again."""
    pod = scene.pods()[0]["name"].encode()

    async def turn(socket_: Busy, transaction: Busy) -> None:
        async with await Busy.begun(scene, get("/"), pod + b" 0\n") as kept:
            answer = await asyncio.to_thread(scene.intercept)
            assert answer["pods"][0]["connections"] >= 5  # a health check may just be there too
            assert "next request" in answer["pods"][0]["staying"]
            await asyncio.to_thread(scene.lab.wait, lambda: scene.with_app() == 5, "a count of five")
            shown = await asyncio.to_thread(scene.tproxy, "status")
            assert "5 connections still with the app" in shown.stdout
            listed = await asyncio.to_thread(scene.tproxy, "list", "-n", scene.namespace)
            assert "5 connections still with the app" in listed.stderr
            await kept.says(get("/"), b"laptop 0\n")
            await socket_.says(b"\x81\x85abcdhello", b"\x81\x85abcdhello")
            await transaction.says(b"GET / HTTP/9.9 is a word of ours\n", pod + b" GET / HTTP/9.9 is a word of ours\n")
            await asyncio.to_thread(scene.lab.wait, lambda: scene.with_app() == 4, "a count of four")
            await asyncio.to_thread(scene.leave)
            await kept.says(get("/"), pod + b" 0\n")
            await kept.ended()  # and the client's next connection is the app's own

    async def scenario() -> None:
        async with contextlib.AsyncExitStack() as stack:

            async def begun(first: bytes, until: bytes) -> Busy:
                return await stack.enter_async_context(await Busy.begun(scene, first, until))

            events = await begun(get("/events"), b"data: 1\n\n")
            download = await begun(get("/download"), b"\r\n\r\n")
            socket_ = await begun(get("/ws"), b"\r\n\r\n")
            transaction = await begun(b"BEGIN\n", pod + b" BEGIN\n")
            for _ in range(TURNS):
                await turn(socket_, transaction)
            with scene.going_on():
                await events.heard(b"data: 2\n\n")
                async with asyncio.timeout(10):
                    await download.reader.readexactly(8 << 20)
            await transaction.says(b"COMMIT\n", pod + b" COMMIT\n")

    asyncio.run(scenario())


def test_all_are_reset_or_kept_if_so_chosen(scene: Scene) -> None:
    pod = scene.pods()[0]["name"].encode()

    async def scenario() -> None:
        async with await Busy.begun(scene, get("/"), pod + b" 0\n") as kept:
            answer = await asyncio.to_thread(scene.intercept, "--existing", "keep")
            assert answer["pods"][0]["staying"] == "kept there, as asked"
            await kept.says(get("/"), pod + b" 0\n")
            await asyncio.to_thread(scene.leave)
            answer = await asyncio.to_thread(scene.intercept, "--existing", "reset", "--drain", "1")
            with pytest.raises(ConnectionResetError):
                await kept.ended()
            assert answer["pods"][0]["connections"] == 0
        async with await Busy.begun(scene, b"BEGIN\n", b"laptop BEGIN\n") as raw:
            await asyncio.to_thread(scene.leave)
            with pytest.raises(ConnectionResetError):
                await raw.ended()

    asyncio.run(scenario())


class Talk:
    """What lasts, by a program in the outside user's network that answers each line of its input with one."""

    def __init__(self, scene: Scene, *command: str) -> None:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = scene.lab.start("exec", "user", "--", *command, **pipes)

    def says(self, word: str) -> str:
        """The answer to it."""
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        return str(self._process.stdout.readline().strip())

    def ends(self) -> str:
        """The last line, without any more input."""
        self._process.stdin.close()
        return str(self._process.stdout.readline().strip())

    def __enter__(self) -> "Talk":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(10)
        self._process.stdin.close()
        self._process.stdout.close()


@pytest.fixture(params=[("web", 0), ("grpc", 1)], ids=["IPv4", "IPv6"])
def channel(request: pytest.FixtureRequest, scene: Scene) -> Iterator[str]:
    """A server of gRPC in a pod and on the laptop, by a port whose name does not say so, or does; its address."""
    name, family = request.param
    manifest = CHANNEL.format(app=json.dumps(str(GRPC_APP)), port=GRPC_PORT, name=name)
    scene.lab.apply(manifest, scene.namespace)
    pod = scene.lab.ready_pod(scene.namespace, "channel-")
    listens = f"import socket; socket.create_connection(('127.0.0.1', {GRPC_LOCAL_PORT})).close()"
    app = local_app(
        scene.lab,
        [str(GRPC_APP), "serve", "--port", str(GRPC_LOCAL_PORT)],
        lambda: scene.lab.exec("laptop", "python", "-c", listens, check=False).returncode == 0,
    )
    try:
        address = str(pod["addresses"][family])
        yield f"[{address}]" if family else address
    finally:
        app.terminate()
        app.wait(10)


@each_backend
def test_a_busy_channel_of_grpc_ends_where_it_began(scene: Scene, channel: str) -> None:
    call = ("python", str(GRPC_APP), "talk", f"{channel}:{GRPC_PORT}")
    with Talk(scene, *call) as old:
        assert old.says("1") == "pod 1"
        for turn in range(TURNS):
            line = ("intercept", "channel", "-p", f"{GRPC_LOCAL_PORT}:{GRPC_PORT}", "-n", scene.namespace)
            assert scene.json(*line)["pods"][0]["connections"] >= 1
            assert old.says(f"intercepted {turn}") == f"pod intercepted {turn}"
            with Talk(scene, *call) as new:
                assert new.says("1") == "laptop 1"
                scene.tproxy("leave", "channel", "-n", scene.namespace)
                assert new.says("2") == "laptop 2"
                assert new.ends() == "OK"
            assert old.says(f"left {turn}") == f"pod left {turn}"
        assert old.ends() == "OK"


def test_a_transaction_of_postgresql_ends_where_it_began(scene: Scene) -> None:
    """The port's name says nothing, and nobody listens on the laptop."""
    with database() as command:
        scene.lab.apply(DATABASE.format(command=json.dumps(command), port=POSTGRES), scene.namespace)
        address = scene.lab.ready_pod(scene.namespace, "database-")["addresses"][0]
        psql = ("psql", "-h", address, "-p", str(POSTGRES), "-U", "shop", "-d", "postgres", "-AtqX")
        with Talk(scene, *psql) as one:
            assert one.says("create table orders (item text); begin; select 'begun';") == "begun"
            for _ in range(TURNS):
                line = ("intercept", "database", "-p", f"{GRPC_LOCAL_PORT}:{POSTGRES}", "-n", scene.namespace)
                assert scene.json(*line)["pods"][0]["connections"] >= 1
                assert one.says("insert into orders values ('GET / HTTP/1.1') returning 'in';") == "in"
                assert scene.lab.exec("user", *psql, "-c", "select 1", check=False).returncode == 2, "the laptop's"
                scene.tproxy("leave", "database", "-n", scene.namespace)
            assert one.says("commit; select count(*) from orders;") == str(TURNS)
        scene.lab.client.delete(DEPLOYMENTS, "database", scene.namespace)
        scene.lab.wait(lambda: not scene.lab.pods(scene.namespace, "database-"), "the database's end")
