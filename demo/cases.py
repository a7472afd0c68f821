"""Five things that go wrong, each made on purpose and then explained by the node: docs/guides/debug-a-node.md.

    sudo .venv/bin/tproxy lab up
    sudo .venv/bin/python demo/cases.py CASE       one of those below, or all of them without CASE

Each case works in a namespace of its own, shows the symptom as a client has it, asks the node why, and cleans up.
"""

import argparse
import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tproxy.lab.layout import DEFAULT_NAME, Layout

TPROXY = Path(sys.executable).with_name("tproxy")
SECONDS = 30.0

MANIFEST = """
apiVersion: v1
kind: Namespace
metadata: {{name: {namespace}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web, namespace: {namespace}}}
spec:
  replicas: 1
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        command: [python, -c, {program}]
        ports: [{{name: http, containerPort: 8080}}, {{name: admin, containerPort: 9090}}]
---
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: {namespace}}}
spec:
  selector: {{app: web}}
  ports: [{{name: http, port: 80, targetPort: http}}]
"""

SAYS = """
import http.server, sys
class Says(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(sys.argv[1]) + 1))
        self.end_headers()
        self.wfile.write(sys.argv[1].encode() + b"\\n")
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(("", int(sys.argv[2])), Says).serve_forever()
"""
"""A server that answers everything with a word."""

POD = f"import sys; sys.argv[1:] = ['pod', '8080']\n{SAYS}"

STUCK = """
import signal, socket
listener = socket.create_server(("", 8080), backlog=1)
signal.pause()
"""
"""A server whose only thread does something else."""


class Case:
    """A lab to break something in: commands of its places, run as its people."""

    def __init__(self, lab: str, namespace: str) -> None:
        self.lab = lab
        self.namespace = namespace

    def run(self, *command: str | Path, text: str | None = None, shown: bool = False) -> str:
        """What a command says, on both outputs; with `shown` for the reader, too."""
        done = subprocess.run(
            [str(word) for word in command],
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        if shown:
            print(done.stdout, flush=True)
        return done.stdout

    def inside(self, place: str, *command: str) -> list[str]:
        """A command in a place of the lab."""
        return [str(TPROXY), "lab", "exec", "--name", self.lab, place, "--", *command]

    def tproxy(self, *arguments: str, who: str = "ada", shown: bool = False) -> str:
        """`tproxy` on the laptop, as one of the people there; each has a laptop daemon of her own."""
        return self.run(*self.hers(who, *arguments), shown=shown)

    def hers(self, who: str, *arguments: str) -> list[str]:
        """`tproxy` as a command of hers. Ada is the laptop's own user, with files of her own."""
        if who != "ada":
            return self.inside(f"laptop/{who}", str(TPROXY), *arguments)
        home = Layout(self.lab).place_directory("laptop") / "case-ada"
        variables = {"XDG_RUNTIME_DIR": home / "run", "XDG_STATE_HOME": home / "state", "XDG_CONFIG_HOME": home}
        for path in variables.values():
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        environment = [f"{name}={path}" for name, path in variables.items()]
        return self.inside("laptop", "env", *environment, str(TPROXY), *arguments)

    def daemon(self) -> int:
        """The process of Ada's laptop daemon."""
        lock = Layout(self.lab).place_directory("laptop") / "case-ada" / "run" / "tproxy" / "daemon.lock"
        return int(lock.read_text())

    @property
    def url(self) -> str:
        """Where clients find the Service."""
        return f"http://web.{self.namespace}.svc.cluster.local/"

    def asks(self, *options: str, path: str = "", shown: bool = True) -> str:
        """What a client outside gets."""
        command = ["curl", "-sS", *([] if "--max-time" in options else ["--max-time", "3"]), *options, self.url + path]
        if shown:
            print(f"client$ {shlex.join(command)}", flush=True)
        return self.run(*self.inside("user", *command), shown=shown)

    def pod(self) -> tuple[str, str, str]:
        """The pod's name, node and address."""
        found = json.loads(self.run(TPROXY, "lab", "status", "--name", self.lab, "-o", "json"))["pods"]
        one = next(each for each in found if each["namespace"] == self.namespace)
        return one["name"], one["node"], one["addresses"][0]

    def why(self, port: int, *options: str, who: str = "debbie") -> str:
        """Ask the node; Debbie has the debugger's role and no other."""
        name, _, _ = self.pod()
        print(f"{who}$ tproxy node why {self.namespace}/{name}:{port} {' '.join(options)}", flush=True)
        return self.tproxy("node", "why", f"{self.namespace}/{name}:{port}", *options, who=who, shown=True)

    def flows(self, until_said: str = "") -> str:
        """What has happened to connections, as Debbie sees it; asked again until something is said of them."""
        name, node, _ = self.pod()
        asked = ("node", "flows", node, "--pod", f"{self.namespace}/{name}")
        said: list[str] = []

        def is_said() -> bool:
            said.append(self.tproxy(*asked, who="debbie"))
            return bool(re.search(until_said, said[-1]))

        until(is_said)
        print(f"debbie$ tproxy {shlex.join(asked)}\n{said[-1]}", flush=True)
        return said[-1]

    def trace(self, url: str, what: str, events: str) -> str:
        """What the kernel does when a client asks, as Debbie sees it, until there is what is looked for."""
        name, node, _ = self.pod()
        asked = ("node", "trace", node, "--pod", f"{self.namespace}/{name}", "--events", events, "--seconds", "30")
        print(f"debbie$ tproxy {shlex.join(asked)}", flush=True)
        tracing = subprocess.Popen(self.hers("debbie", *asked), stdout=subprocess.PIPE, text=True)
        seen: list[str] = []
        try:
            assert tracing.stdout is not None  # noqa: S101
            seen.append(tracing.stdout.readline())
            with self.asking(url):
                for line in tracing.stdout:
                    seen.append(line)
                    if re.search(what, line):
                        break
        finally:
            tracing.terminate()
            tracing.communicate(timeout=10)
        print("".join(seen), flush=True)
        return "".join(seen)

    @contextlib.contextmanager
    def asking(self, url: str) -> Iterator[None]:
        """A client that waits for its answer meanwhile."""
        command = ["curl", "-s", "--max-time", "60", url]
        process = subprocess.Popen(self.inside("user", *command), stdout=subprocess.DEVNULL)
        try:
            yield
        finally:
            process.terminate()
            process.wait(10)

    @contextlib.contextmanager
    def app(self, says: str, port: int) -> Iterator[None]:
        """A local app on the laptop."""
        process = subprocess.Popen(self.inside("laptop", sys.executable, "-c", SAYS, says, str(port)))
        try:
            until(lambda: says in self.run(*self.inside("laptop", "curl", "-s", f"http://127.0.0.1:{port}/")))
            yield
        finally:
            process.terminate()
            process.wait(10)

    @contextlib.contextmanager
    def playing(self, program: str = POD) -> Iterator[None]:
        """The Deployment and its Service, and an end of everything in the end."""
        manifest = MANIFEST.format(namespace=self.namespace, program=json.dumps(program))
        self.run(TPROXY, "lab", "apply", "--name", self.lab, "-f", "-", "--wait", text=manifest)
        try:
            yield
        finally:
            for who in ("ada", "eve", "debbie"):
                self.tproxy("quit", who=who)
            self.run(TPROXY, "lab", "delete", "--name", self.lab, "-f", "-", text=manifest)


def until(condition: Callable[[], bool]) -> None:
    """Wait for it."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit("this case did not come to what it is about")
        time.sleep(0.05)


def app_down(case: Case) -> Iterator[str]:
    """Clients are reset: nothing listens on the laptop."""
    with case.playing():
        case.tproxy("intercept", "web", "-p", "3950:8080", "-n", case.namespace, shown=True)
        case.asks()
        yield case.why(8080)
        yield case.flows()


def wrong_port(case: Case) -> Iterator[str]:
    """The intercept is live, and the pod answers all the same: it is of a port that nobody uses."""
    with case.playing(), case.app("laptop", 3951):
        case.tproxy("intercept", "web", "-p", "3951:9090", "-n", case.namespace, shown=True)
        case.asks()
        yield case.why(8080)
        yield case.why(9090)
        yield case.flows()
        yield case.trace(case.url, "SYN_RECV", "state,steer")


def tunnel_stalled(case: Case) -> Iterator[str]:
    """Clients wait and get nothing, then the pod answers: the laptop is asleep."""
    with case.playing(), case.app("laptop", 3952):
        case.tproxy("intercept", "web", "-p", "3952:8080", "-n", case.namespace, shown=True)
        _, node, _ = case.pod()
        # Debbie is connected already: for three seconds the laptop is silent and not yet given up.
        watching = subprocess.Popen(
            case.hers("debbie", "node", "flows", node, "--follow", "-o", "json"),
            stdout=subprocess.PIPE,
        )
        try:
            until(lambda: case.asks(shown=False) == "laptop\n")
            assert watching.stdout is not None  # noqa: S101
            watching.stdout.readline()
            daemon = case.daemon()
            os.kill(daemon, signal.SIGSTOP)
            try:
                with case.asking(case.url):
                    yield case.flows("which has said nothing for|tunnel-lost")
                    yield case.why(8080)
                until(lambda: case.asks("--max-time", "1", shown=False) == "pod\n")
                yield case.why(8080)
            finally:
                os.kill(daemon, signal.SIGCONT)
        finally:
            watching.terminate()
            watching.communicate(timeout=10)


def overlapping_match(case: Case) -> Iterator[str]:
    """Some of Ada's requests go to Eve, who has intercepted a path before."""
    with case.playing(), case.app("ada", 3953), case.app("eve", 3954):
        asked = ("intercept", "web", "-n", case.namespace, "-p")
        case.tproxy(*asked, "3954:8080", "--http-path-prefix", "/cart", who="eve", shown=True)
        case.tproxy(*asked, "3953:8080", "--http-header", "x-user=ada", who="ada", shown=True)
        case.asks("-H", "x-user: ada")
        case.asks("-H", "x-user: ada", path="cart")
        yield case.why(8080, "--header", "x-user=ada", "--path", "/cart")
        yield case.flows()


def accept_queue(case: Case) -> Iterator[str]:
    """Connections time out: the app in the pod does not accept them any more."""
    with case.playing(STUCK):
        _, _, address = case.pod()
        url = f"http://{address}:8080/"
        with case.asking(url), case.asking(url):
            until(lambda: "(28)" in case.asks("--connect-timeout", "1", shown=False))
            case.asks("--connect-timeout", "1")
            yield case.why(8080)
            yield case.trace(url, "overflow", "overflow")


CASES: dict[str, Callable[[Case], Iterator[str]]] = {
    "app-down": app_down,
    "wrong-port": wrong_port,
    "tunnel-stalled": tunnel_stalled,
    "overlapping-match": overlapping_match,
    "accept-queue": accept_queue,
}


def main() -> None:
    """Play what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--lab", default=DEFAULT_NAME, help="the lab to play in (default: %(default)s)")
    chosen = parser.parse_args()
    if unknown := [name for name in chosen.case if name not in CASES]:
        parser.error(f"no case {unknown[0]}: {', '.join(CASES)}")
    for name in chosen.case or CASES:
        about = (CASES[name].__doc__ or "").strip()
        print(f"\n== {name}: {about}\n", flush=True)
        for _ in CASES[name](Case(chosen.lab, f"case-{name}")):
            pass


if __name__ == "__main__":
    main()
