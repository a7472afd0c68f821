"""Personal intercepts of HTTP/2 and gRPC with real clients and servers, in the lab."""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.lab.laptop import Laptop, local_app

NODES = ("node1", "node2")
HERE = Path(__file__).parent

MANIFESTS = """
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: 1
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: {name}
        command: {command}
        env: [{{name: POD, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}]
        ports: [{{name: main, containerPort: {port}}}]
        readinessProbe: {{tcpSocket: {{port: main}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  selector: {{app: {name}}}
  ports: [{{name: main, port: 80, targetPort: main}}]
"""


NGINX = """
daemon off; master_process off; user root; pid {directory}/nginx.pid; error_log stderr error;
events {{ worker_connections 512; }}
http {{
  access_log off; keepalive_requests 1000000;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
  server {{ listen [::]:{port} http2 ipv6only=off; location / {{ return 200 "nginx\n"; }} }}
}}
"""


@contextlib.contextmanager
def intercepted(
    lab: Any, namespace: str, name: str, script: list[str], port: int, command: Sequence[str] = ()
) -> Iterator[Laptop]:
    """A Deployment of a server, and the same server on the laptop for requests with `x-user: ada`.

    `command`: the Deployment's is another one.
    """
    person = Laptop(lab, namespace)
    words = command or ["python", str(HERE / script[0]), *script[1:], "--port", str(port)]
    lab.apply(MANIFESTS.format(name=name, command=json.dumps(words), port=port), namespace)

    def serves() -> bool:
        probe = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"
        return lab.exec("laptop", "python", "-c", probe, check=False).returncode == 0

    app = local_app(lab, [str(HERE / script[0]), *script[1:], "--port", str(port)], serves)
    try:
        person.tproxy("intercept", name, "-p", str(port), "-n", namespace, "--http-header", "x-user=ada")
        yield person
    finally:
        # A daemon that was killed has not left anything: the next one would have it again.
        person.tproxy("leave", "--all", "-n", namespace, check=False)
        person.tproxy("quit", check=False)
        app.terminate()
        app.wait(10)


def test_curl_speaks_http2_by_prior_knowledge_and_by_upgrade(lab: Any, namespace: str, tmp_path: Path) -> None:
    with intercepted(lab, namespace, "h2", ["h2_app.py"], 8080):
        url = f"http://h2.{namespace}.svc.cluster.local"
        body = tmp_path / "body"
        body.write_bytes(b"z" * 3_000_000)
        digest = hashlib.sha256(body.read_bytes()).hexdigest()

        def curl(*options: str, path: str = "/a") -> str:
            asked = ("curl", "-sS", "-m", "20", "-w", "%{http_version} %{http_code}", *options, url + path)
            return str(lab.exec("user", *asked).stdout)

        for how in ("--http2-prior-knowledge", "--http2"):
            mine, others = curl(how, "-H", "X-User: ada"), curl(how)
            assert mine.startswith("laptop /a ")
            assert others.startswith("h2-")
            assert others.endswith("2 200")
            # A request to upgrade is served in HTTP/1.1 where it is for a laptop: the connection stays everybody's.
            assert mine.endswith("2 200" if how == "--http2-prior-knowledge" else "1.1 200")
        upload = ("--http2-prior-knowledge", "--data-binary", f"@{body}")
        assert digest in curl(*upload)
        assert digest in curl(*upload, "-H", "x-user: ada")
        for header in ("x-user: ada", "x-user: eve"):
            options = ("--http2-prior-knowledge", "-o", "/dev/null", "-w", "%{size_download}", "-H", header)
            assert curl(*options, path="/bytes/5000000").endswith("5000000")
        assert curl("--http2", path="/bytes/5000000").startswith("x" * 5_000_000)


def test_h2load_of_two_at_a_time_with_nginx(lab: Any, namespace: str, tmp_path: Path) -> None:
    """Each on connections of its own, with many streams; and on one connection that both share."""
    config = tmp_path / "nginx.conf"
    config.write_text(NGINX.format(directory=tmp_path, port=8080))
    nginx = ("nginx", "-p", str(tmp_path), "-c", str(config))
    with intercepted(lab, namespace, "pages", ["h2_app.py"], 8080, nginx) as person:
        url = f"http://pages.{namespace}.svc.cluster.local/"
        load = ("exec", "user", "--", "h2load", "-n2000", "-c4", "-m16", url)
        running = [lab.start(*load, *header, stdout=subprocess.PIPE) for header in ((), ("-H", "x-user: ada"))]
        for each in running:
            said, _ = each.communicate(timeout=60)
            assert "2000 succeeded, 0 failed, 0 errored, 0 timeout" in said
            assert "2000 2xx, 0 3xx, 0 4xx, 0 5xx" in said
        [shown] = person.json("status")["clusters"][0]["intercepts"]
        assert (shown["requests"]["matched"], shown["requests"]["passed"]) == (2000, 2000)
        mixed = [
            word for number in range(8) for word in ("-H", f"x-user: {'ada' if number % 2 else 'eve'}", url, "--next")
        ]
        said = lab.exec("user", "curl", "-sS", "-m", "20", "--http2-prior-knowledge", *mixed[:-1]).stdout.splitlines()
        assert [line.split()[0] for line in said] == ["nginx", "laptop"] * 4


def test_a_laptop_dies_under_load(lab: Any, namespace: str) -> None:
    """Nobody's request fails: hers, which are safe, are answered by the app, and connections end in order.

    They do end, because nobody intercepts the port any more.
    """
    with intercepted(lab, namespace, "h2", ["h2_app.py"], 8080) as person:
        asking = (str(HERE / "h2_asking.py"), f"h2.{namespace}.svc.cluster.local", "80", "6")
        kinds = (("-",), ("ada",), ("ada", "-", "eve"))
        running = [
            lab.start("exec", "user", "--", "python", *asking, *users, stdout=subprocess.PIPE) for users in kinds
        ]
        for process in running:
            assert process.stdout.readline() == "under way\n"
        os.kill(person.pid(), signal.SIGKILL)
        for process, users in zip(running, kinds, strict=True):
            said, _ = process.communicate(timeout=60)
            seen = json.loads(said)
            for user in users:
                answered = seen[user]
                assert [what for what in answered if what.startswith("!")] == [], seen
                assert ("laptop" in answered) == (user == "ada")
                assert sum(count for who, count in answered.items() if who.startswith("h2-")) > 100


@pytest.mark.parametrize("user", ["", "ada"])
def test_grpc_calls_of_every_kind(lab: Any, namespace: str, user: str) -> None:
    with intercepted(lab, namespace, "echo", ["grpc_app.py", "serve"], 50051) as person:
        address = f"echo.{namespace}.svc.cluster.local:80"
        command = ["python", str(HERE / "grpc_app.py"), "call", address, *(["--user", user] if user else [])]
        found = json.loads(lab.exec("user", *command).stdout)
        [shown] = person.json("status")["clusters"][0]["intercepts"]
        requests = shown["requests"]
        assert (requests["matched"] > 55) if user else (requests["matched"] == 0)
        assert requests["passed"] >= (50 if user else 108)
        assert sum(person.metric(node, 'tproxy_requests_seconds_count{outcome="passed"}') for node in NODES) > 0
        who = found["unary"][0]
        assert who == "laptop" if user else who.startswith("echo-")
        mine, others = found.pop("mixed")
        assert mine == [who]
        assert [name.startswith("echo-") for name in others] == [True]
        assert found == {
            "unary": [who, True],
            "big": [who, True],
            "down": [1_000_000, who],
            "up": [who, True],
            "both": [who, True],
            "slow": ["DEADLINE_EXCEEDED", "Deadline Exceeded"],
            "fail": ["FAILED_PRECONDITION", "as you wished: 100 % é"],
            "missing": ["UNIMPLEMENTED", "Method not found!"],
            "cancelled": True,
        }
