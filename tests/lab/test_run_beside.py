"""`tproxy run` beside others: several at once, two clusters with the same addresses, debuggers."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any

import pytest

from tests.lab.laptop import network
from tests.lab.person import Person
from tests.lab.test_run import manifests
from tproxy.kube.port import NAMESPACES
from tproxy.lab.addresses import ROUTER

TWIN = """
apiVersion: v1
kind: Service
metadata: {{name: twin}}
spec:
  clusterIP: {address}
  selector: {{app: {app}}}
  ports: [{{name: http, port: 80, targetPort: http}}]
"""
"""A Service that both clusters have, at the same address."""

TWIN_ADDRESS = "10.96.77.77"


@pytest.fixture(scope="module")
def person(lab: Any) -> Iterator[Person]:
    lab.client.create(NAMESPACES, {"metadata": {"name": "beside"}})
    lab.apply(manifests("web", "beside"), "beside")
    one = Person(lab, "beside")
    try:
        yield one
    finally:
        one.close()


def test_several_at_once_are_shown(person: Person) -> None:
    with ExitStack() as stack:
        runs = [stack.enter_context(person.begin("cat", stdin=subprocess.PIPE)) for _ in range(3)]
        pids = {one.pid for one in runs}

        def shown() -> bool:
            status = json.loads(person.tproxy("status", "-o", "json").stdout)
            return {run["pid"] for run in status.get("runs", ())} == pids

        person.lab.wait(shown, "three runs in the status")
        table = person.tproxy("status").stdout
        assert "COMMAND" in table
        assert "beside/" in table
        for one in runs:
            assert one.communicate("x\n", timeout=20)[0] == "x\n"


@contextmanager
def reachable(here: Any, there: Any, port: int) -> Iterator[int]:
    """A port of one lab's laptop that leads to a port of the router in another's; yields it."""
    near, far = network(here.layout.netns("laptop")), network(there.layout.netns("laptop"))
    threads: list[threading.Thread] = []

    def start(target: Callable[..., None], *args: Any) -> threading.Thread:
        threads.append(threading.Thread(target=target, args=args))
        threads[-1].start()
        return threads[-1]

    def copy(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)

    def join(client: socket.socket) -> None:
        with client, far.netns.socket(socket.AF_INET, socket.SOCK_STREAM) as server:
            server.connect((ROUTER[0], port))
            back = start(copy, server, client)
            copy(client, server)
            back.join()

    def serve() -> None:
        with suppress(OSError):
            while True:
                start(join, listener.accept()[0])

    with closing(near.netns), closing(far.netns), near.listen("127.0.0.1", 0) as listener:
        listener.setblocking(True)
        start(serve)
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join(20)


def test_two_clusters_with_the_same_addresses(person: Person, own_lab: Callable[..., Any]) -> None:
    other = own_lab("--nodes", "1")
    other.client.create(NAMESPACES, {"metadata": {"name": "beside"}})
    other.apply(manifests("mirror", "beside"), "beside")
    person.lab.apply(TWIN.format(address=TWIN_ADDRESS, app="web"), "beside")
    other.apply(TWIN.format(address=TWIN_ADDRESS, app="mirror"), "beside")
    with reachable(person.lab, other, 6443) as port:
        text = other.layout.laptop_kubeconfig.read_text()
        assert f"http://{ROUTER[0]}:6443" in text
        kubeconfig = person.home / "other"
        kubeconfig.write_text(text.replace(f"http://{ROUTER[0]}:6443", f"http://127.0.0.1:{port}"))
        there = ("--kubeconfig", str(kubeconfig))
        try:
            # Both are there at once, and each is asked in turn, by name and by the address that both have.
            asking = ("sh", "-c", "while read -r url; do curl -sS --max-time 10 $url || echo failed; done")
            with (
                person.begin(*asking, stdin=subprocess.PIPE) as mine,
                person.begin(*asking, options=there, stdin=subprocess.PIPE) as theirs,
            ):
                for url in ("http://twin/", f"http://{TWIN_ADDRESS}/") * 2:
                    for process, who in ((mine, "web-"), (theirs, "mirror-")):
                        assert _ask(process, url).startswith(who)
                for process in (mine, theirs):
                    _, err = process.communicate(timeout=20)
                    assert process.returncode == 0, err
        finally:
            person.tproxy("quit")  # which ends its connections through this test


def _ask(process: Any, url: str) -> str:
    process.stdin.write(f"{url}\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    assert answer, process.stderr.read()
    return str(answer)


DEBUGGEE = """
import debugpy, sys
if sys.argv[1] == "listen": debugpy.listen(("127.0.0.1", 5678)); print("listens", flush=True); debugpy.wait_for_client()
else: debugpy.connect(("127.0.0.1", 5678))
print("debugged", debugpy.is_client_connected(), flush=True)
"""


def _request(debugger: socket.socket, command: str) -> Any:
    """What the other end answers to a request of the Debug Adapter Protocol."""
    body = json.dumps({"seq": 1, "type": "request", "command": command, "arguments": {"adapterID": "test"}}).encode()
    debugger.settimeout(20)
    debugger.sendall(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
    with debugger.makefile("rb") as lines:
        while True:
            length = int(lines.readline().partition(b":")[2])
            assert lines.readline() == b"\r\n"
            message = json.loads(lines.read(length))
            if message["type"] == "response":
                return message


def test_a_debugger_that_waits_on_the_laptop_is_reached(person: Person) -> None:
    laptop = network(person.lab.layout.netns("laptop"))
    with closing(laptop.netns), laptop.listen("127.0.0.1", 5678) as debugger:
        debugger.settimeout(20)
        with person.begin(sys.executable, "-c", DEBUGGEE, "connect") as process:
            with debugger.accept()[0] as client:
                assert _request(client, "pydevdSystemInfo")["body"]["process"]["pid"]
            process.kill()


def test_a_debugger_reaches_what_waits_inside(person: Person) -> None:
    laptop = network(person.lab.layout.netns("laptop"))
    with (
        closing(laptop.netns),
        person.begin(sys.executable, "-c", DEBUGGEE, "listen", options=["--publish", "15678:5678"]) as process,
    ):
        assert process.stdout is not None
        assert process.stdout.readline() == "listens\n"
        with laptop.netns.socket(socket.AF_INET, socket.SOCK_STREAM) as debugger:
            debugger.connect(("127.0.0.1", 15678))
            assert _request(debugger, "initialize")["success"]
        process.kill()
