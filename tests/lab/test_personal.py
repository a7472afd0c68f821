"""Personal intercepts in the lab: each request goes to whom it is for, whatever client and protocol it comes by."""

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.developers import Developer, developers
from tests.lab.scene import PORT

HERE = Path(__file__).parent
NGINX = """
daemon off; master_process off; pid {directory}/nginx.pid; error_log stderr error;
events {{ worker_connections 512; }}
http {{
  access_log off;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
  upstream web {{ {servers} keepalive 4; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:8099 reuseport;
    location / {{
      proxy_pass http://web; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_next_upstream off;
    }}
  }}
}}
"""

Both = tuple[Developer, Developer]


@pytest.fixture(scope="module")
def both(lab: Any) -> Iterator[Both]:
    """Ada and Eve."""
    from tproxy.kube.port import NAMESPACES

    lab.client.create(NAMESPACES, {"metadata": {"name": "personal"}})
    with developers(lab, "personal") as made:
        yield made


@pytest.fixture
def sharing(both: Both) -> Iterator[Both]:
    """Both intercept, each with her header."""
    try:
        for one in both:
            one.begin()
        yield both
    finally:
        for one in both:
            one.end()


def asked(person: Developer, *options: str) -> str:
    """What the outside user's curl prints, of the Service unless a URL is given last."""
    url = () if options and options[-1].startswith("http://") else (person.url(),)
    command = ("curl", "-sSg", "--max-time", "10", *options, *url)
    return str(person.lab.exec("user", *command, check=False).stdout)


@contextlib.contextmanager
def ingress(person: Developer, directory: Path) -> Iterator[None]:
    """nginx at the outside user's, with a pool of connections to the pods."""
    servers = " ".join(f"server {pod['addresses'][0]}:{PORT};" for pod in person.pods())
    config = directory / "nginx.conf"
    config.write_text(NGINX.format(directory=directory, servers=servers))
    nginx = person.lab.start("exec", "user", "--", "nginx", "-p", str(directory), "-c", str(config))
    try:
        person.lab.wait(
            lambda: person.lab.exec("user", "curl", "-s", "http://127.0.0.1:8099/", check=False).returncode == 0,
            "nginx",
        )
        yield
    finally:
        nginx.terminate()
        nginx.wait(10)


REQUESTS = int(os.environ.get("REQUESTS", "1000"))
"""Of two developers' pool, at least. `REQUESTS=100000 python -m pytest -s tests/lab/test_personal.py -k pool`: more."""


def load(person: Developer, seconds: int, *arguments: str) -> subprocess.Popen[str]:
    url = "http://127.0.0.1:8099/"
    command = ["wrk", "-t2", "-c16", f"-d{seconds}s", "-s", str(HERE / "mixed.lua"), url, *arguments]
    return person.lab.start("exec", "user", "--", *command, stdout=subprocess.PIPE)  # type: ignore[no-any-return]


def counted(process: subprocess.Popen[str]) -> dict[str, int]:
    output, _ = process.communicate(timeout=120)
    found = {name: int(value) for name, value in re.findall(r"(requests|wrong|fallen|errors)=(\d+)", output)}
    assert found, output
    print(found)
    return found


def test_each_request_goes_where_it_belongs(sharing: Both) -> None:
    ada, _ = sharing
    assert asked(ada).startswith("web-")
    assert asked(ada, "-H", "X-User: ada") == "ada ada\n"
    assert asked(ada, "-H", "x-user: eve") == "eve eve\n"
    assert re.fullmatch(r"web-\S+ bob\n", asked(ada, "-H", "X-User: bob"))
    url = ada.url()
    mixed = asked(ada, "-H", "x-user: ada", url, "--next", "-sS", url, "--next", "-sS", "-H", "x-user: eve")
    assert re.fullmatch(r"ada ada\nweb-\S+ -\neve eve\n", mixed)


def test_bodies_of_every_kind(sharing: Both, tmp_path: Path) -> None:
    ada, _ = sharing
    size = 3_000_000
    file = tmp_path / "body"
    file.write_bytes(bytes(range(250)) * (size // 250))
    for options in ((), ("-H", "Transfer-Encoding: chunked"), ("-H", "Expect: 100-continue")):
        posted = ("--data-binary", f"@{file}", *options)
        assert re.fullmatch(rf"web-\S+ - {size}\n", asked(ada, *posted))
        assert asked(ada, *posted, "-H", "x-user: ada") == f"ada ada {size}\n"
    assert asked(ada, "--http1.0", "-H", "x-user: ada") == "ada ada\n"
    assert asked(ada, "-I", "-H", "x-user: ada").startswith("HTTP/1.1 200 OK")


def test_every_condition_counts(both: Both) -> None:
    """Baggage, which travels between services by itself, the path and the method; and an app that is down."""
    ada, eve = both
    flags = ("--http-baggage", "user=ada", "--http-path-prefix", "/api", "--http-method", "POST")
    baggage = ("-H", "baggage: tenant=7, user=ada;ttl=1")
    try:
        ada.begin(*flags)
        eve.begin("--http-header", "x-user=~e.e", "--http-path-regex", "/[a-z]+", "--fallback-when-refused")
        api = ("-X", "POST", f"{ada.url()}api/v1?x")
        assert asked(ada, *baggage, *api) == "ada -\n"
        assert asked(ada, *baggage, "-H", "x-user: eve", *api) == "ada eve\n"
        assert asked(ada, *api).startswith("web-")
        assert asked(ada, *baggage, f"{ada.url()}api/v1").startswith("web-")
        assert asked(ada, *baggage, "-X", "POST", f"{ada.url()}apis").startswith("web-")
        assert asked(ada, "-H", "x-user: eve", f"{ada.url()}slow") == "eve eve\n"
        assert asked(ada, "-H", "x-user: eve", f"{ada.url()}slow/1").startswith("web-")
        eve.stop_app()
        try:
            assert re.fullmatch(r"web-\S+ eve\n", asked(ada, "-H", "x-user: eve", f"{ada.url()}any"))
        finally:
            eve.start_app()
        [shown] = eve.json("status")["clusters"][0]["intercepts"]
        assert (shown["requests"]["matched"], shown["requests"]["fallback"]) == (1, 1)
    finally:
        for one in both:
            one.end()


def test_two_developers_behind_one_pool(both: Both, tmp_path: Path) -> None:
    """Every request of connections that everybody shares is answered by the right place, also of old ones."""
    with ingress(both[0], tmp_path):
        url = "http://127.0.0.1:8099/"
        for _ in range(8):
            assert asked(both[0], url).startswith("web-")
        try:
            for one in both:
                one.begin()
            asked_for = 0
            while asked_for < REQUESTS:
                found = counted(load(both[0], 4 if REQUESTS < 10_000 else 20, "posts"))
                asked_for += found["requests"]
                assert (found["wrong"], found["fallen"], found["errors"]) == (0, 0, 0)
            print(f"{asked_for} requests, each answered by the right place")
        finally:
            for one in both:
                one.end()


def test_a_laptop_dies_under_load(both: Both, tmp_path: Path) -> None:
    """Nobody else's request fails, and hers, which are safe, are answered by the app."""
    ada, eve = both
    try:
        for one in both:
            one.begin()
        with ingress(ada, tmp_path):
            running = load(ada, 6)
            time_of_death = time.monotonic() + 1.5
            while time.monotonic() < time_of_death:
                assert asked(ada, "-H", "x-user: ada") == "ada ada\n"
            subprocess.run(["kill", f"-{int(signal.SIGKILL)}", str(eve.pid())], check=True)
            found = counted(running)
            late = asked(ada, "-H", "x-user: eve")
        assert (found["wrong"], found["errors"]) == (0, 0)
        assert 0 < found["fallen"] < found["requests"]
        assert re.fullmatch(r"web-\S+ eve\n", late)
    finally:
        for one in both:
            one.end()


@pytest.fixture
def everything(both: Both) -> Iterator[Developer]:
    """Ada intercepts all of the port."""
    ada, _ = both
    try:
        ada.intercept(port=f"{ada.port}:{PORT}")
        yield ada
    finally:
        ada.end()


def busy(person: Developer) -> float:
    """Connections that are with a laptop now."""
    return sum(person.metric(node, 'tproxy_connections_active{place="laptop"}') for node in ("node1", "node2"))


def test_a_laptop_that_has_all_requests_dies_under_load(everything: Developer, tmp_path: Path) -> None:
    """None of them fails: they are safe, and their connections go on with the app."""
    with ingress(everything, tmp_path):
        running = load(everything, 5, "anyones")
        everything.lab.wait(lambda: busy(everything) >= 4, "the load")
        assert asked(everything, "http://127.0.0.1:8099/") == "ada -\n"
        os.kill(everything.pid(), signal.SIGKILL)
        found = counted(running)
        late = asked(everything, "http://127.0.0.1:8099/")
    assert (found["wrong"], found["errors"]) == (0, 0)
    assert 0 < found["fallen"] < found["requests"]
    assert late.startswith("web-")


def test_a_laptop_that_has_all_requests_falls_silent(everything: Developer) -> None:
    """What it was asked and may be asked again is answered by the app; of other requests the client is told."""
    curl = ("curl", "-sS", "-i", "--max-time", "20", everything.url())
    daemon = everything.pid()
    os.kill(daemon, signal.SIGSTOP)
    try:
        kinds = ((), ("-d", "x"))
        running = [everything.lab.start("exec", "user", "--", *curl, *kind, stdout=subprocess.PIPE) for kind in kinds]
        safe, unsafe = (one.communicate(timeout=60)[0] for one in running)
    finally:
        os.kill(daemon, signal.SIGCONT)
    assert safe.startswith("HTTP/1.1 200 OK")
    assert "\nweb-" in safe
    assert unsafe.startswith("HTTP/1.1 502 Bad Gateway")
    assert "tproxy-error: laptop-gone" in unsafe
    assert "(laptop laptop, intercept personal/web-" in unsafe
