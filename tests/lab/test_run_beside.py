"""`tproxy run` beside others: several at once, two clusters with the same addresses, debuggers, a real database."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.lab.laptop import network
from tests.lab.person import Person
from tests.lab.test_run import manifests
from tproxy.kube.port import NAMESPACES

POSTGRES = """
apiVersion: v1
kind: Pod
metadata: {{name: db, labels: {{app: db}}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: db
    command:
    - sh
    - -c
    - |
      set -e
      data=$(mktemp -d); chown {uid}:{uid} $data
      as="setpriv --reuid {uid} --regid {uid} --clear-groups"
      $as {bin}/initdb -A trust -U dev -D $data >/dev/null
      echo "host all all all trust" >> $data/pg_hba.conf
      exec $as {bin}/postgres -D $data -k $data -c listen_addresses='*'
    ports: [{{name: pg, containerPort: 5432}}]
    readinessProbe: {{tcpSocket: {{port: pg}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: db}}
spec:
  selector: {{app: db}}
  ports: [{{name: pg, port: 5432, targetPort: pg}}]
"""


@pytest.fixture(scope="module")
def person(lab: Any) -> Iterator[Person]:
    lab.client.create(NAMESPACES, {"metadata": {"name": "beside"}})
    lab.apply(manifests("web", "beside"), "beside")
    one = Person(lab, "beside")
    try:
        yield one
    finally:
        one.close()


def _postgres() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    return found[-1].parent if found else None


def test_psql_and_a_real_database(person: Person) -> None:
    if (binaries := _postgres()) is None:
        pytest.skip("no postgres on this machine")
    person.lab.apply(POSTGRES.format(bin=binaries, uid=1), "beside")
    query = "select sum(n) from generate_series(1, 100000) n"
    done = person.run("psql", "-h", "db", "-U", "dev", "-d", "postgres", "-Atc", query)
    assert done.stdout.strip() == "5000050000"


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
    """A port of one lab's laptop that leads to a port of 10.99.0.1 in another's; yields it."""
    near, far = network(here.layout.netns("laptop")), network(there.layout.netns("laptop"))
    listener = near.listen("127.0.0.1", 0)
    listener.setblocking(True)

    def copy(source: Any, sink: Any) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(1)

    def serve() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = far.netns.socket(client.family, client.type)
                server.connect(("10.99.0.1", port))
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=copy, args=pair, daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(2)
        thread.join(10)
        with closing(listener), closing(near.netns), closing(far.netns):
            pass


def test_two_clusters_with_the_same_addresses(person: Person, own_lab: Callable[..., Any]) -> None:
    other = own_lab("--nodes", "1")
    other.client.create(NAMESPACES, {"metadata": {"name": "beside"}})
    other.apply(manifests("twin", "beside"), "beside")
    with reachable(person.lab, other, 6443) as port:
        text = other.layout.laptop_kubeconfig.read_text().replace("http://10.99.0.1:6443", f"http://127.0.0.1:{port}")
        kubeconfig = person.home / "other"
        kubeconfig.write_text(text)
        there = ("--kubeconfig", str(kubeconfig))
        mine, theirs = person.lab.pods("beside", "web-")[0], other.pods("beside", "twin-")[0]
        with person.begin(
            "sh", "-c", "read line; curl -sS http://twin/", options=there, stdin=subprocess.PIPE
        ) as second:
            # While the other run is there, and by the very same address if the labs gave them that.
            assert person.run("curl", "-sS", "http://web/").stdout.startswith("web-")
            assert person.run("curl", "-sS", f"http://{mine['addresses'][0]}:8080/").stdout.startswith(mine["name"])
            out, err = second.communicate("go\n", timeout=30)
            assert out.startswith("twin-"), err
        address = f"http://{theirs['addresses'][0]}:8080/"
        assert person.run("curl", "-sS", address, options=there).stdout.startswith(theirs["name"])
        person.tproxy("quit")


DEBUGGEE = """
import debugpy, sys
if sys.argv[1] == "listen": debugpy.listen(("127.0.0.1", 5678)); print("listens", flush=True); debugpy.wait_for_client()
else: debugpy.connect(("127.0.0.1", 5678))
print("debugged", debugpy.is_client_connected(), flush=True)
"""


def test_a_debugger_that_waits_on_the_laptop_is_reached(person: Person) -> None:
    pytest.importorskip("debugpy", reason="no debugpy in this environment")
    laptop = network(person.lab.layout.netns("laptop"))
    with closing(laptop.netns), laptop.listen("127.0.0.1", 5678) as debugger:
        debugger.setblocking(True)
        debugger.settimeout(20)
        with person.begin(sys.executable, "-c", DEBUGGEE, "connect") as process:
            client, _ = debugger.accept()
            with client:
                assert client.recv(4096).startswith(b"Content-Length:")
            process.kill()
            process.communicate()


def test_a_debugger_reaches_what_waits_inside(person: Person) -> None:
    pytest.importorskip("debugpy", reason="no debugpy in this environment")
    laptop = network(person.lab.layout.netns("laptop"))
    with (
        closing(laptop.netns),
        person.begin(sys.executable, "-c", DEBUGGEE, "listen", options=["--publish", "15678:5678"]) as process,
    ):
        assert process.stdout is not None
        assert process.stdout.readline() == "listens\n"
        with laptop.netns.socket(2, 1) as debugger:
            debugger.connect(("127.0.0.1", 15678))
            body = b'{"seq":1,"type":"request","command":"initialize","arguments":{"adapterID":"x"}}'
            debugger.sendall(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
            debugger.settimeout(20)
            assert debugger.recv(4096).startswith(b"Content-Length:")
        process.kill()
        process.communicate()
