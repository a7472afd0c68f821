"""A node daemon as a process of its own, with an API server, pods and a laptop around it.

The API server is the lab's, the pods are network namespaces with a process in a cgroup like the kubelet's, and the apps
in them are served by the test itself. Everything listens on loopback or inside throwaway namespaces.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.kernel.answering import PORT
from tests.kernel.namespaces import POD_IP4, Namespaces, PodNetwork, until
from tproxy.kube.port import DEPLOYMENTS, INTERCEPTS, NAMESPACES, PODS, SESSIONS
from tproxy.lab.api.app import make_app
from tproxy.lab.api.authn import admin
from tproxy.lab.api.resources import builtin_kinds, custom_kinds
from tproxy.lab.api.store import Store
from tproxy.model.intercept import Intercept, InterceptPort, Target
from tproxy.model.session import Session, hash_token
from tproxy.rpc.client import connect
from tproxy.tasks import Tasks
from tproxy.tunnel.bridge import connect_bridge
from tproxy.tunnel.endpoint import Conn, Endpoint
from tproxy.tunnel.hello import Hello

ROOT = Path(__file__).resolve().parents[2]
NODE = "n1"
NAMESPACE = "shop"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def cgroup_mount() -> Path:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, path, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(path)
    raise RuntimeError("no cgroup2 is mounted")


class Pod:
    """A pod on the node: a Pod object, a namespace, and one process that sleeps in both of them."""

    def __init__(self, stage: "Stage", name: str) -> None:
        self.name = name
        self.network: PodNetwork = stage.namespaces.make_pod()
        obj = stage.store.create(
            PODS,
            {
                "metadata": {
                    "name": name,
                    "labels": {"app": "web"},
                    "ownerReferences": [
                        {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": stage.deployment}
                    ],
                },
                "spec": {"nodeName": NODE, "containers": [{"name": "app", "image": "none"}]},
            },
            NAMESPACE,
        )
        self.uid: str = obj["metadata"]["uid"]
        self._stage = stage
        self._cgroup = stage.cgroup / "kubepods" / "burstable" / f"pod{self.uid}" / (self.uid.replace("-", "") * 2)
        self._cgroup.mkdir(parents=True)
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        """Start the process, and report the pod as running."""
        place = self.network.pod.path
        # Not before it is where it belongs does it count: all pods here have the same address.
        script = f"echo $$ > {self._cgroup}/cgroup.procs && echo && exec sleep infinity > /dev/null"
        command = ["nsenter", f"--net={place}", "sh", "-c", script]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        with self._process.stdout as there:
            there.readline()
        self.report("Running")

    def report(self, phase: str, address: str = POD_IP4) -> None:
        """Write the pod's status."""
        container = f"containerd://{os.urandom(32).hex()}"
        status = {
            "phase": phase,
            "podIP": address,
            "podIPs": [{"ip": address}],
            "containerStatuses": [{"name": "app", "containerID": container}],
        }
        self._stage.store.patch(PODS, self.name, {"status": status}, NAMESPACE, "status")

    def move(self) -> None:
        """What a runtime does when it builds a pod's network anew: same UID and address, another namespace."""
        self.end()
        self.network = self._stage.namespaces.make_pod()
        self.run()

    def end(self) -> None:
        """Kill the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def delete(self) -> None:
        """The pod is gone, object and all."""
        self.end()
        self._stage.store.delete(PODS, self.name, NAMESPACE, grace_seconds=0)

    def remove_cgroup(self) -> None:
        self.end()
        for directory in (self._cgroup, self._cgroup.parent):
            directory.rmdir()


class Laptop:
    """A session with its tunnel, and the local app behind it."""

    def __init__(self, stage: "Stage", name: str) -> None:
        self.name = name
        self.token = os.urandom(32)
        self.app: tuple[str, int] = ("127.0.0.1", free_port())  # where connections go; nobody listens there yet
        self.opened: list[Conn] = []
        self.endpoint: Endpoint | None = None
        body = Session(NAMESPACE, name, "", hash_token(self.token), name, f"{name}-laptop", None, 3600).to_object()
        self.uid: str = stage.store.create(SESSIONS, body)["metadata"]["uid"]
        self._stage = stage
        self._tasks = Tasks("laptop")

    async def connect(self, port: int | None = None) -> Endpoint:
        """Open a tunnel to the daemon."""
        target = f"127.0.0.1:{port or self._stage.grpc}"
        self.endpoint = await connect(target, Hello(NAMESPACE, self.name, self.token), self._on_open)
        return self.endpoint

    def _on_open(self, conn: Conn) -> None:
        self.opened.append(conn)
        connect_bridge(conn, [self.app], self._tasks)

    def intercept(self, name: str = "web-1a2b", ports: Sequence[int] = (PORT,), target: str = "web") -> str:
        """Create an Intercept; returns its name."""
        body = Intercept(
            NAMESPACE,
            name,
            "",
            self.name,
            self.uid,
            Target("Deployment", target),
            tuple(InterceptPort(port) for port in ports),
        ).to_object()
        self._stage.store.create(INTERCEPTS, body)
        return name


class Stage:
    """Use `async with stage(...)`."""

    def __init__(self, namespaces: Namespaces, directory: Path, steering: str = "auto") -> None:
        self.steering = steering
        self.namespaces = namespaces
        self.store = Store([*builtin_kinds(), *custom_kinds()])
        for namespace in ("default", NAMESPACE):
            self.store.create(NAMESPACES, {"metadata": {"name": namespace}})
        deployment = self.store.create(DEPLOYMENTS, {"metadata": {"name": "web"}, "spec": {}}, NAMESPACE)
        self.deployment: str = deployment["metadata"]["uid"]
        self.cgroup = cgroup_mount() / f"tproxy-t-{os.getpid():x}"
        self.grpc, self.http, self.api = free_port(), free_port(), free_port()
        self.daemon: subprocess.Popen[bytes] | None = None
        self.log = directory / "node.log"
        self.pods: list[Pod] = []
        self._kubeconfig = directory / "kubeconfig"
        self._runner: web.AppRunner | None = None

    async def start_api(self) -> None:
        """Serve the API."""
        user = admin("system:node-daemon")
        self._runner = web.AppRunner(make_app(self.store, {"t": user}, _nothing, _nothing), shutdown_timeout=0.2)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.api).start()

    async def stop_api(self) -> None:
        """End every watch and listen no more."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def write_kubeconfig(self) -> Path:
        config = {
            "current-context": "t",
            "contexts": [{"name": "t", "context": {"cluster": "t", "user": "t"}}],
            "clusters": [{"name": "t", "cluster": {"server": f"http://127.0.0.1:{self.api}"}}],
            "users": [{"name": "t", "user": {"token": "t"}}],
        }
        self._kubeconfig.write_text(json.dumps(config))
        return self._kubeconfig

    def start_daemon(self) -> None:
        """Start it; does not wait."""
        command = [sys.executable, "-m", "tproxy_node", "--node", NODE, "--kubeconfig", str(self.write_kubeconfig())]
        command += ["--grpc", f"127.0.0.1:{self.grpc}", "--http", f"127.0.0.1:{self.http}"]
        command += ["--steering", self.steering]
        path = os.pathsep.join([str(ROOT), str(ROOT / "node-daemon")])
        with self.log.open("ab") as log:
            self.daemon = subprocess.Popen(command, stderr=log, env={**os.environ, "PYTHONPATH": path})

    async def daemon_ready(self) -> None:
        """Wait until it says so."""
        await until_async(lambda: self.get("/readyz"), lambda answer: answer[0] == 200, 15)

    async def get(self, path: str) -> tuple[int, str]:
        """A GET from the daemon's HTTP server: status and text, (0, "") if nobody listens."""
        return await asyncio.get_running_loop().run_in_executor(None, _fetch, f"http://127.0.0.1:{self.http}{path}")

    async def metric(self, line: str) -> float:
        """The value of a metric, written as `/metrics` writes it."""
        _, text = await self.get("/metrics")
        values = [float(value) for name, _, value in (row.rpartition(" ") for row in text.splitlines()) if name == line]
        assert values, f"no metric {line}"
        return values[0]

    def signal(self, number: signal.Signals) -> None:
        """Send the daemon a signal."""
        assert self.daemon is not None
        self.daemon.send_signal(number)

    async def ended(self, seconds: float) -> int:
        """The daemon's exit code."""
        daemon = self.daemon
        assert daemon is not None

        def ended() -> bool:
            return daemon.poll() is not None

        await until(ended, seconds)
        return int(daemon.returncode)

    async def pod(self, name: str) -> Pod:
        """A running pod of Deployment `web`."""
        pod = Pod(self, name)
        self.pods.append(pod)
        pod.run()
        return pod

    def states(self, intercept: str = "web-1a2b") -> dict[str, str]:
        """Each pod's state or reason, as the node reports them."""
        status = self.store.get(INTERCEPTS, intercept, NAMESPACE).get("status", {})
        pods = status.get("nodes", {}).get(NODE, {}).get("pods", [])
        return {pod["name"]: pod["reason"] or pod["state"] for pod in pods}

    async def reaches(self, states: dict[str, str], intercept: str = "web-1a2b", seconds: float = 5) -> None:
        """Wait until the node reports exactly `states`."""
        try:
            await until(lambda: self.states(intercept) == states, seconds)
        except TimeoutError:
            raise AssertionError(f"wanted {states}, found {self.states(intercept)}") from None

    def left(self, intercept: str = "web-1a2b") -> bool:
        """Whether the node has taken its entry back."""
        return NODE not in self.store.get(INTERCEPTS, intercept, NAMESPACE).get("status", {}).get("nodes", {})

    def leave(self, intercept: str = "web-1a2b") -> None:
        """Mark an intercept as being left, as laptops do."""
        self.store.patch(INTERCEPTS, intercept, Intercept.leave_patch(), NAMESPACE)

    def status(self, intercept: str = "web-1a2b") -> dict[str, Any]:
        """The node's entry."""
        obj = self.store.get(INTERCEPTS, intercept, NAMESPACE)
        entry: dict[str, Any] = obj["status"]["nodes"][NODE]
        return entry

    def logged(self) -> list[dict[str, Any]]:
        """The daemon's log."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    async def close(self) -> None:
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.kill()
            self.daemon.wait()
        await self.stop_api()
        for pod in self.pods:
            pod.remove_cgroup()
        for directory in ("kubepods/burstable", "kubepods", ""):
            with contextlib.suppress(FileNotFoundError):
                (self.cgroup / directory).rmdir()


@contextlib.asynccontextmanager
async def stage(namespaces: Namespaces, directory: Path, steering: str = "auto") -> AsyncIterator[Stage]:
    """An API server and a ready daemon that steers by `steering`."""
    made = Stage(namespaces, directory, steering)
    try:
        await made.start_api()
        made.start_daemon()
        await made.daemon_ready()
        yield made
    finally:
        await made.close()


async def until_async(ask: Any, enough: Any, seconds: float) -> None:
    """Ask again and again until the answer is enough; TimeoutError with the last one after `seconds`."""
    answer: Any = None
    try:
        async with asyncio.timeout(seconds):
            while not enough(answer := await ask()):  # noqa: ASYNC110 - another process sets no event
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise TimeoutError(f"not within {seconds} s, last: {answer!r}") from None


def _fetch(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - our own address
            return int(answer.status), answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


async def _nothing(*_: object) -> Any:
    raise OSError("this stage forwards no ports and keeps no logs")
