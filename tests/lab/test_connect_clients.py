"""`tproxy connect` for programs of other kinds: static ones, WebSockets, and very much at once."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.connected import Connected
from tests.lab.many import payload
from tests.lab.test_run import RESOLVING, manifests
from tproxy.kube.port import NAMESPACES

NAMESPACE = "clients"


@pytest.fixture(scope="module")
def laptop(lab: Any) -> Iterator[Connected]:
    lab.client.create(NAMESPACES, {"metadata": {"name": NAMESPACE}})
    lab.apply(manifests("web", NAMESPACE, 2), NAMESPACE)
    one = Connected(lab, NAMESPACE)
    try:
        one.connect()
        yield one
    finally:
        one.tproxy("disconnect", check=False)
        lab.wait(one.as_before, "nothing left")
        one.close()
        lab.client.delete(NAMESPACES, NAMESPACE)


def python(laptop: Connected, code: str) -> str:
    return laptop.run(sys.executable, "-c", code).strip()


@pytest.mark.parametrize("language", ["go", "musl"])
def test_static_programs(laptop: Connected, tmp_path: Path, language: str) -> None:
    source = tmp_path / ("ask.go" if language == "go" else "ask.c")
    source.write_text(RESOLVING[language].replace("web.outbound", f"web.{NAMESPACE}"))
    binary = tmp_path / "ask"
    build = {
        "go": ["go", "build", "-o", str(binary), str(source)],
        "musl": ["musl-gcc", "-static", "-O1", "-o", str(binary), str(source)],
    }
    subprocess.run(build[language], check=True, env={**os.environ, "CGO_ENABLED": "0", "GO111MODULE": "off"})
    count, pod, _ = laptop.run(str(binary)).split()
    assert int(count) >= 1
    assert pod.startswith("web-")


def test_what_has_ip6_alone(laptop: Connected) -> None:
    assert laptop.get("http://web-six/").startswith("web-")
    pod = laptop.lab.pods(NAMESPACE, "web-")[0]
    assert laptop.get(f"http://[{pod['addresses'][1]}]:8086/").startswith(pod["name"])
    refused = laptop.lab.exec("laptop", "curl", "-s", f"http://{pod['addresses'][0]}:8086/", check=False)
    assert refused.returncode == 7, "nobody listens there by IPv4"


def test_names_that_stand_for_others(laptop: Connected) -> None:
    assert laptop.get("http://web-elsewhere/").startswith("web-")


def test_a_web_socket(laptop: Connected) -> None:
    code = """
import asyncio, aiohttp
async def main():
    async with aiohttp.ClientSession() as session, session.ws_connect("http://web/ws") as ws:
        for _ in range(3):
            await ws.send_str("ab")
            print((await ws.receive_str()))
asyncio.run(main())"""
    assert python(laptop, code).split() == ["abab"] * 3


def test_five_hundred_connections_at_once(laptop: Connected) -> None:
    code = """
import asyncio
async def one(open_now, started):
    reader, writer = await asyncio.open_connection("web", 80)
    open_now.append(writer)
    if len(open_now) == 500:
        started.set()
    await started.wait()
    writer.write(b"GET / HTTP/1.1\\r\\nHost: web\\r\\nConnection: close\\r\\n\\r\\n")
    data = await reader.read()
    writer.close()
    return data.startswith(b"HTTP/1.1 200")
async def main():
    open_now, started = [], asyncio.Event()
    async with asyncio.timeout(50):
        print(sum(await asyncio.gather(*(one(open_now, started) for _ in range(500)))))
asyncio.run(main())"""
    assert python(laptop, code) == "500"


def test_half_a_gigabyte_arrives_whole(laptop: Connected) -> None:
    size = 512 << 20
    wanted = hashlib.sha256()
    for block in payload(size):
        wanted.update(block)
    fetched = laptop.run("sh", "-c", f"curl -s --max-time 55 http://web/bytes/{size} | sha256sum")
    assert fetched.split()[0] == wanted.hexdigest()
