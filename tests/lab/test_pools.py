"""Connections from before an intercept, and through it: a proxy's pool under load, and what must never be touched."""

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.namespaces import Namespace
from tests.lab.laptop import Laptop, local_app, network

APP = Path(__file__).with_name("pool_app.py")
PORT, LOCAL_PORT, PROXY_PORT = 8080, 3950, 8890
TURNS = 10
CLIENTS = 6
THINK_SECONDS = 0.02

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 1
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        command: [python, {app}, --port, "{port}"]
        env: [{{name: POD, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}]
        ports: [{{name: web, containerPort: {port}}}]
        readinessProbe: {{tcpSocket: {{port: web}}, periodSeconds: 5}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  selector: {{app: web}}
  ports: [{{name: web, port: 80, targetPort: web}}]
"""

NGINX = """
pid {directory}/nginx.pid;
error_log {directory}/error.log info;
worker_processes 1;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    upstream web {{ server {address}:{port}; keepalive 16; }}
    server {{
        listen 127.0.0.1:{listen};
        location / {{ proxy_pass http://web; proxy_http_version 1.1; proxy_set_header Connection ""; }}
    }}
}}
"""


class Scene(Laptop):
    """One pod of `web`, a local app, and an outside user."""

    outside: Namespace

    @property
    def address(self) -> str:
        return str(self.pods()[0]["addresses"][0])

    def intercept(self, *arguments: str, port: str = f"{LOCAL_PORT}:{PORT}") -> Any:
        return super().intercept(*arguments, port=port)

    def with_app(self) -> int:
        """What `status` says is still with the app."""
        found = [one for cluster in self.json("status")["clusters"] for one in cluster["intercepts"]]
        return sum(int(one["connectionsWithApp"]) for one in found)

    @contextlib.contextmanager
    def going_on(self) -> Iterator[None]:
        """While entered, answers that the app began go on to their end."""
        go = Path(f"/tmp/{self.pods()[0]['name']}.go")  # noqa: S108
        go.touch()
        try:
            yield
        finally:
            go.unlink()


@pytest.fixture
def scene(where: Any, namespace: str) -> Iterator[Scene]:
    one = Scene(where, namespace)
    one.outside = network(where.layout.netns("user"))

    def serves() -> bool:
        url = f"http://127.0.0.1:{LOCAL_PORT}/"
        return bool(where.exec("laptop", "curl", "-s", url, check=False).returncode == 0)

    app = local_app(where, [str(APP), "--port", str(LOCAL_PORT)], serves)
    try:
        where.apply(DEPLOYMENT.format(app=json.dumps(str(APP)), port=PORT), namespace)
        where.ready_pod(namespace, "web-")
        yield one
    finally:
        one.tproxy("quit", check=False)
        one.outside.netns.close()
        app.terminate()
        app.wait(10)


@dataclass(frozen=True)
class Answer:
    began: float
    method: str
    who: str


class Load:
    """Clients of a proxy that ask again and again, with GET and POST in turn, on connections of their own."""

    def __init__(self, place: Namespace) -> None:
        self.answers: list[Answer] = []
        self._place = place
        self._asking = True

    async def client(self) -> None:
        reader, writer = await asyncio.open_connection(sock=await self._place.connect("127.0.0.1", PROXY_PORT))
        number = 0
        while self._asking:
            number += 1
            method = ("GET", "POST")[number % 2]
            body = b"x" * 2000 if method == "POST" else b""
            began = time.monotonic()
            writer.write(f"{method} / HTTP/1.1\r\nHost: web\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            async with asyncio.timeout(10):
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                size = int(head.partition("content-length: ")[2].split("\r\n")[0])
                words = (await reader.readexactly(size)).decode().split()
            status = head.split()[1]
            right = status == "200" and words[1] == str(len(body))
            self.answers.append(Answer(began, method, words[0] if right else f"status {status}"))
            await asyncio.sleep(THINK_SECONDS)
        writer.close()

    def stop(self) -> None:
        self._asking = False

    async def next(self, count: int) -> list[Answer]:
        """The next so many answers to requests that begin from now on."""
        now = time.monotonic()
        async with asyncio.timeout(20):
            while len(found := [one for one in self.answers if one.began >= now]) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        return found[:count]


@contextlib.contextmanager
def proxy(scene: Scene, directory: Path) -> Iterator[None]:
    """nginx with a pool of connections to the Service, at the outside user's."""
    config = directory / "nginx.conf"
    address = scene.lab.exec("laptop", "kubectl", "get", "service", "web", "-n", scene.namespace, "-o", "json").stdout
    address = json.loads(address)["spec"]["clusterIP"]
    config.write_text(NGINX.format(directory=directory, address=address, port=80, listen=PROXY_PORT))
    command = ("nginx", "-p", str(directory), "-c", str(config), "-g", "daemon off; user root;")
    process = scene.lab.start("exec", "user", "--", *command)
    try:
        url = f"http://127.0.0.1:{PROXY_PORT}/"
        scene.lab.wait(lambda: scene.lab.exec("user", "curl", "-sf", url, check=False).returncode == 0, "nginx")
        yield
    finally:
        process.terminate()
        process.wait(10)


def test_a_pool_under_load_goes_over_and_comes_back(scene: Scene, tmp_path: Path) -> None:
    """Ten times there and back: no request fails, and the next one is answered by the right side."""
    moved: list[float] = []

    async def scenario() -> Load:
        load = Load(scene.outside)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(CLIENTS):
                tasks.create_task(load.client())
            try:
                await load.next(2 * CLIENTS)
                for _ in range(TURNS):
                    began = time.monotonic()
                    await asyncio.to_thread(scene.intercept)
                    moved.append(time.monotonic() - began)
                    assert {one.who for one in await load.next(4 * CLIENTS)} == {"laptop"}
                    await asyncio.to_thread(scene.leave)
                    assert {one.who for one in await load.next(4 * CLIENTS)} == {scene.pods()[0]["name"]}
            finally:
                load.stop()
        return load

    with proxy(scene, tmp_path):
        load = asyncio.run(scenario())
    pod = scene.pods()[0]["name"]
    count = Counter((one.method, "app" if one.who == pod else one.who) for one in load.answers)
    node = scene.pods()[0]["node"]
    taken = scene.metric(node, 'tproxy_pool_connections_total{outcome="taken"}')
    print((tmp_path / "error.log").read_text()[-4000:])  # why, if any failed
    print(f"{count}; taken over: {taken:.0f}; intercept: {max(moved):.2f} s at most")
    assert set(who for _, who in count) == {"app", "laptop"}
    # Not once a turn: what has come back through the relay goes over again without being taken from the app.
    assert taken > 0
