"""nginx as the local app, which is told of its real clients by the PROXY protocol."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.laptop import Laptop

LOCAL_PORT = 3960

NGINX = """
pid {directory}/nginx.pid;
error_log {directory}/error.log info;
worker_processes 1;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen 127.0.0.1:{port} proxy_protocol;
        location / {{ return 200 "$proxy_protocol_addr $proxy_protocol_server_addr $proxy_protocol_server_port"; }}
    }}
}}
"""


@pytest.fixture
def person(lab: Any, namespace: str, tmp_path: Path) -> Iterator[Laptop]:
    """A pod of `web`, and nginx on the laptop, which answers nobody who does not say who is asking."""
    one = Laptop(lab, namespace)
    config = tmp_path / "nginx.conf"
    config.write_text(NGINX.format(directory=tmp_path, port=LOCAL_PORT))
    command = ("nginx", "-p", str(tmp_path), "-c", str(config), "-g", "daemon off; user root;")
    process = lab.start("exec", "laptop", "--", *command)
    try:
        lab.wait(lambda: (tmp_path / "nginx.pid").exists(), "nginx")
        lab.apply(lab.server("web"), namespace)
        yield one
    finally:
        one.tproxy("quit", check=False)
        process.terminate()
        process.wait(10)


def told(person: Laptop, family: int) -> str:
    """What the local app says that it was told, asked at the pod's address."""
    address = person.pods()[0]["addresses"][family]
    url = f"http://{f'[{address}]' if family else address}:8080/"
    return str(person.lab.exec("user", "curl", "-sg", "--max-time", "5", url, check=False).stdout)


def test_the_local_app_is_told_of_its_clients(person: Laptop) -> None:
    pod = person.pods()[0]
    clients = person.lab.status()["user"]["addresses"]
    expected = [f"{clients[family]} {pod['addresses'][family]} 8080" for family in (0, 1)]
    person.intercept(port=f"{LOCAL_PORT}:8080")
    assert told(person, 0) == "", "this server wants to be told"
    for version in ("v1", "v2"):
        person.leave()
        person.intercept("--proxy-protocol", version, port=f"{LOCAL_PORT}:8080")
        assert [told(person, family) for family in (0, 1)] == expected
    # The next daemon goes on as this one was asked to.
    os.kill(person.pid(), signal.SIGKILL)
    person.lab.wait(lambda: told(person, 0).startswith(pod["name"]), "the pod's answer")
    person.tproxy("list")
    person.lab.wait(lambda: not told(person, 0).startswith(pod["name"]), "the laptop's answer")
    assert [told(person, family) for family in (0, 1)] == expected
