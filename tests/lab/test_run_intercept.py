"""`tproxy intercept … -- CMD`: the command gets the traffic, reaches the cluster as the pod, and leaves no trace."""

import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.laptop import TPROXY
from tests.lab.person import Person
from tests.lab.test_run import manifests
from tproxy.kube.port import INTERCEPTS, NAMESPACES

# Says who it is, and what the Service `far` says to it.
APP = """
import http.server, urllib.request, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        text = b"command " + urllib.request.urlopen("http://far/").read()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
time.sleep(1)
server = http.server.ThreadingHTTPServer(("127.0.0.1", 80), Handler)
print("up", flush=True)
server.serve_forever()
"""


@pytest.fixture(scope="module")
def person(lab: Any) -> Iterator[Person]:
    lab.client.create(NAMESPACES, {"metadata": {"name": "taken"}})
    lab.apply(manifests("web", "taken", 2) + manifests("far", "taken"), "taken")
    one = Person(lab, "taken")
    try:
        yield one
    finally:
        one.close()


def seen(person: Person) -> str:
    """What the outside user gets."""
    url = "http://web.taken.svc.cluster.local/"
    return str(person.lab.exec("user", "curl", "-sS", "--max-time", "10", url, check=False).stdout)


def intercepting(person: Person, *words: str) -> Any:
    return person.start(sys.executable, *TPROXY[1:], "intercept", "web", "-p", "80", "--", *words)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_command_takes_the_traffic_and_gives_it_back(person: Person, end: signal.Signals) -> None:
    with intercepting(person, sys.executable, "-c", APP) as process:
        assert process.stdout is not None
        person.lab.wait(lambda: "command far-" in seen(person), "an answer by the command")
        listed = person.tproxy("list").stdout
        assert "web" in listed
        # Requests that came while it was starting have waited for it, and it is nowhere on the laptop.
        assert person.exec("curl", "-sS", "http://127.0.0.1:80/", check=False).returncode == 7
        process.send_signal(end)
        process.wait(20)
        assert process.returncode == (128 + end if end == signal.SIGTERM else -end)
        process.communicate()
    person.lab.wait(lambda: seen(person).startswith("web-"), "an answer by a pod")
    person.lab.wait(lambda: not person.lab.client.list(INTERCEPTS, "taken"), "no intercept is left")


def test_the_exit_status_is_the_commands(person: Person) -> None:
    with intercepting(person, "sh", "-c", "curl -sS http://far/; exit 9") as process:
        out, err = process.communicate(timeout=30)
    assert process.returncode == 9, err
    assert out.startswith("far-")
    assert "intercept/web-" in err
    assert not person.lab.client.list(INTERCEPTS, "taken")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("intercept", "none", "-p", "80", "--", "touch", "started"), "none"),
        (("intercept", "web", "-p", "80:81", "--", "touch", "started"), "81"),
        (("intercept", "web", "80"), "unexpected extra argument (80)"),
        (("intercept", "web", "-p", "80", "--", "no-such-command"), "command not found"),
    ],
)
def test_what_cannot_be_is_said_before_the_command_starts(person: Person, words: tuple[str, ...], said: str) -> None:
    done = person.tproxy(*words, check=False)
    assert done.returncode != 0
    assert said in done.stderr
    assert "hint: " in done.stderr
    assert not (person.home / "started").exists()
