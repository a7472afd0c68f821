"""A real Kubernetes of two nodes on this machine, a laptop and somebody outside, with images and names in it.

Nothing of it is in this machine's own network, and nothing of it outlives this process.
"""

import itertools
import os
import subprocess
import time
from pathlib import Path
from types import TracebackType

from tests.e2e import images, network
from tests.e2e.cgroups import Cgroups
from tests.e2e.control_plane import ROOT, ControlPlane, find_programs
from tests.e2e.node import PAUSE, READY_SECONDS, Node
from tests.e2e.place import Place, Process

HERE = Path(__file__).parent
EDGY_CORP = ROOT / "demo" / "edgy_corp"
APPS = "/apps"
"""Where the sources of tests' and the demo's applications are in their image."""
APP = "localhost/apps:1"
PAGE_PORT = 30080
_NUMBERS = itertools.count(1)
"""Clusters of this process: there may be two at a time."""
SERVICES = ("dataprocessingservice", "verylargedatastore", "verylargejavaservice")


class Cluster:
    """Runs as a context manager. `plane` has kubectl; `nodes`, `laptop` and `user` are places of it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.took: dict[str, float] = {}
        """Seconds since the beginning, by what was ready then."""
        self._resolver: Process | None = None
        self._closers: list[Place | Cgroups | Node | ControlPlane] = []

    def __enter__(self) -> "Cluster":
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End everything. Raises AssertionError if something stays."""
        if self._resolver:
            self._resolver.kill()
        while self._closers:
            self._closers.pop().close()

    def _start(self) -> None:
        # Built first, if they have to be: that is not a part of starting.
        programs, archive = find_programs(), self._images()
        began = time.monotonic()
        cgroups = Cgroups(f"tproxy-e2e-{os.getpid()}-{next(_NUMBERS)}", list(network.NODES))
        self._closers.append(cgroups)
        control, laptop, user = (self._place(name) for name in ("control", "laptop", "user"))
        places = {name: self._place(name) for name in network.NODES}
        network.join(control, places, laptop, user)
        self.laptop, self.user = laptop, user
        self.plane = ControlPlane(self.directory / "plane", programs, control, network.CONTROL)
        self.plane.directory.mkdir()
        self._closers.append(self.plane)
        self.nodes = {
            name: Node(
                place,
                self.directory / name,
                programs,
                self.plane.kubeconfig_of(f"system:node:{name}", "system:nodes"),
                cgroups.of(name),
            )
            for name, place in places.items()
        }
        self.plane.kubeconfig_of("system:kube-proxy").rename(self.plane.directory / "kube-proxy.kubeconfig")
        self._closers += self.nodes.values()
        for node in self.nodes.values():
            node.start_runtime()
        loading = [node.load(archive) for node in self.nodes.values()]
        self.plane.start()
        self.took["API server"] = time.monotonic() - began
        self.kubectl("wait", "--for=create", "namespace/kube-system", "--timeout=120s")
        self.apply((HERE / "dns.yaml").read_text())
        for process in loading:
            assert process.wait(READY_SECONDS) == 0, process.last_words
        archive.unlink()
        self.took["images"] = time.monotonic() - began
        for node in self.nodes.values():
            node.start()
        for name in self.nodes:
            self.kubectl("wait", "--for=create", f"node/{name}", "--timeout=120s")
        self.kubectl("wait", "--for=condition=Ready", "node", "--all", "--timeout=120s")
        self.took["nodes"] = time.monotonic() - began
        # The resolver of the laptop's own network, which knows no names. Homes are where everybody gets to.
        corefile, resolv_conf = self.directory / "Corefile", self.directory / "resolv.conf"
        corefile.write_text(".:53 {\n    errors\n}\n")
        resolv_conf.write_text(f"nameserver {network.CONTROL}\n")
        self._resolver = control.start(path_of("coredns"), "-conf", corefile, log=self.directory / "resolver.log")
        self.laptop.run("mount", "--bind", resolv_conf, "/etc/resolv.conf")
        self.laptop.run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
        self.kubectl("rollout", "status", "-n", "kube-system", "deployment/coredns", "--timeout=120s")
        self.took["names"] = time.monotonic() - began

    def kubectl(self, *arguments: str, text: str = "", check: bool = True) -> str:
        """Run kubectl as an administrator; what it prints. Raises AssertionError if it fails and `check`."""
        done = self.plane.kubectl(*arguments, stdin=text)
        if check and done.returncode:
            for node in self.nodes.values():
                node.require()
            raise AssertionError(f"kubectl {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def apply(self, manifests: str, namespace: str = "") -> None:
        """Apply manifests given as text."""
        self.kubectl("apply", *(["-n", namespace] if namespace else []), "-f", "-", text=manifests)

    def _place(self, name: str) -> Place:
        place = Place(name)
        self._closers.append(place)
        return place

    def _images(self) -> Path:
        """An archive of every image: the node daemon's, and one of applications on top of it."""
        archive = images.Archive()
        self.image = archive.read(path_of("node-image"))
        archive.program(PAUSE, find_programs() / "pause")
        archive.program("localhost/coredns:1", path_of("coredns"))
        sources = [*EDGY_CORP.glob("*.py"), *(ROOT / "tests" / "lab" / name for name in ("hello.py", "many.py"))]
        archive.on_top(APP, self.image, {f"{APPS[1:]}/{path.name}": path for path in sources}, APPS)
        for service in SERVICES:
            archive.alias(f"docker.io/edgy-corp/{service}:1", APP)
        path = self.directory / "images.tar"
        archive.write(path)
        return path


def path_of(script: str) -> Path:
    """What a script in .ci makes, if it is not there, and prints the path of."""
    done = subprocess.run([ROOT / ".ci" / script], check=True, stdout=subprocess.PIPE, text=True)
    return Path(done.stdout.strip())


def edgy_corp() -> str:
    """The demo's own manifests, and a way to its page from outside."""
    manifests = (EDGY_CORP / "manifests.yaml").read_text().replace("EDGY_CORP", APPS)
    return f"""{manifests}
---
apiVersion: v1
kind: Service
metadata: {{name: page}}
spec:
  type: NodePort
  selector: {{app: verylargejavaservice}}
  ports: [{{name: http, port: 8080, targetPort: http, nodePort: {PAGE_PORT}}}]
"""
