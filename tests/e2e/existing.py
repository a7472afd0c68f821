"""A cluster that is there already: what $KUBECONFIG names. Everything that is made in it is removed again.

Asked of it: no tproxy yet; rights to install the chart; nodes that can run $NODE_IMAGE_NAME, the node daemon's image by
the name that they pull it by, or have it under. The demo's application runs in the same image, its sources mounted.
"""

import contextlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from tests.chart.rendering import CHART, find_helm
from tests.e2e.person import TPROXY, wait

EDGY_CORP = Path(__file__).parents[2] / "demo" / "edgy_corp"
APPS = "/apps"
SYSTEM = "tproxy-system"
DEFINITIONS = ("sessions.tproxy.dev", "intercepts.tproxy.dev")
PAGE = "http://verylargejavaservice:8080/"
KINDS = {
    "api/v1": ("pods", "services", "configmaps", "serviceaccounts"),
    "apis/apps/v1": ("deployments", "replicasets"),
}
"""What the workload consists of, by where it is in the API."""
_IMAGE = re.compile(
    r"(?:(?P<registry>[^/@]+)/)?(?P<repository>[^:@]+)(?=[:@])(?::(?P<tag>[^:@/]+))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_ASK = """
import sys, urllib.request as web
headers = dict([sys.argv[2].split(": ")]) if sys.argv[2] else {}
try:
    print(web.urlopen(web.Request(sys.argv[1], headers=headers), timeout=5).read().decode())
except OSError as error:  # as long as the node's proxy does not know the Service's pods, for one
    print(error)
"""


class RefusedError(Exception):
    """The cluster is not one that may be used so; nothing was changed in it."""


def image_values(image: str) -> dict[str, str]:
    """The chart's values for an image by its name. Raises RefusedError for what is none, or leaves open which."""
    if not image:
        raise RefusedError("NODE_IMAGE_NAME says which image of the node daemon its nodes have or can pull")
    if not (found := _IMAGE.fullmatch(image)):
        raise RefusedError(f"NODE_IMAGE_NAME is not [REGISTRY/]REPOSITORY:TAG, or with @sha256:… after it: {image}")
    return found.groupdict(default="")


class Existing:
    """Runs as a context manager: with the chart and the demo's application in it, and a person at this machine."""

    def __init__(self) -> None:
        self._helm = find_helm()
        self._kubectl = shutil.which("kubectl")
        self.namespace = f"tproxy-e2e-{secrets.token_hex(3)}"

    def __enter__(self) -> "Existing":
        image = os.environ.get("NODE_IMAGE_NAME", "")
        values = {**image_values(image), "pullPolicy": "IfNotPresent"}
        if self.kubectl("get", "crd", *DEFINITIONS, "--ignore-not-found", "-o", "name"):
            raise RefusedError("tproxy is in this cluster already: these tests install, and remove, their own")
        if self.kubectl("get", "namespace", SYSTEM, "--ignore-not-found", "-o", "name"):
            raise RefusedError(f"there is a namespace {SYSTEM} in this cluster already")
        # Whatever is registered here is tried at the end, also when something else could not be removed.
        with contextlib.ExitStack() as made:
            self._home = made.enter_context(tempfile.TemporaryDirectory(prefix="tproxy-e2e-"))
            self._install(values, made)
            self._apply(image, made)
            made.callback(self.tproxy, "quit", check=False)
            self._made = made.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._made.close()

    def kubectl(self, *arguments: str, text: str = "") -> str:
        """Run kubectl with the kubeconfig as it is; what it prints. Raises AssertionError if it fails."""
        if self._kubectl is None:
            raise RefusedError("kubectl is not installed")
        done = subprocess.run(
            [self._kubectl, *arguments], input=text, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout.strip()

    def helm(self, *arguments: str | Path, values: Mapping[str, Any] | None = None) -> str:
        """Run Helm in the release's namespace."""
        given = ["--values", "-"] if values is not None else []
        done = subprocess.run(
            [self._helm, f"--namespace={SYSTEM}", *arguments, *given],
            input=yaml.safe_dump(dict(values or {})),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def tproxy(self, *arguments: str, check: bool = True) -> str:
        """Run a command of tproxy as the person that the kubeconfig is of, in a home of its own; what it prints."""
        directories = {name: self._home for name in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME")}
        environment = {**os.environ, **directories, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [*TPROXY, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert not check or done.returncode == 0, f"tproxy {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    def colour(self, header: str = "") -> str:
        """The colour on the page for somebody within the cluster; empty if there is none."""
        command = ("exec", "-n", self.namespace, "deploy/verylargedatastore", "--", "python3", "-c", _ASK)
        found = re.search(r'<strong id="color">(\w+)</strong>', self.kubectl(*command, PAGE, header))
        return found[1] if found else ""

    def pods(self) -> dict[str, tuple[str, int]]:
        """UID and restarts by name."""
        listed = json.loads(self.kubectl("get", "pods", "-n", self.namespace, "-o", "json"))["items"]
        return {
            pod["metadata"]["name"]: (
                pod["metadata"]["uid"],
                sum(container["restartCount"] for container in pod["status"]["containerStatuses"]),
            )
            for pod in listed
        }

    def objects(self) -> list[Any]:
        """What there is of the workload, as the API server has it: of kubectl it depends what it leaves out."""
        paths = [f"/{api}/namespaces/{self.namespace}/{kind}" for api, kinds in KINDS.items() for kind in kinds]
        return [json.loads(self.kubectl("get", "--raw", path))["items"] for path in paths]

    def _install(self, image: Mapping[str, str], made: contextlib.ExitStack) -> None:
        made.callback(self.kubectl, "delete", "namespace", SYSTEM, "--ignore-not-found", "--timeout=120s")
        made.callback(self.helm, "uninstall", "tproxy", "--ignore-not-found", "--wait")
        self.helm("install", "tproxy", CHART, "--create-namespace", values={"image": dict(image)})
        self.kubectl("rollout", "status", "-n", SYSTEM, "daemonset/tproxy-node", "--timeout=180s")

    def _apply(self, image: str, made: contextlib.ExitStack) -> None:
        made.callback(self.kubectl, "delete", "namespace", self.namespace, "--ignore-not-found", "--timeout=120s")
        self.kubectl("create", "namespace", self.namespace)
        sources = [f"--from-file={path}" for path in sorted(EDGY_CORP.glob("*.py"))]
        self.kubectl("create", "configmap", "apps", "-n", self.namespace, *sources)
        manifests = list(yaml.safe_load_all((EDGY_CORP / "manifests.yaml").read_text().replace("EDGY_CORP", APPS)))
        deployments = [one for one in manifests if one["kind"] == "Deployment"]
        for deployment in deployments:
            pod = deployment["spec"]["template"]["spec"]
            pod["terminationGracePeriodSeconds"] = 3  # it is deaf to SIGTERM
            pod["volumes"] = [{"name": "apps", "configMap": {"name": "apps"}}]
            [container] = pod["containers"]
            container.update(image=image, volumeMounts=[{"name": "apps", "mountPath": APPS}])
            container["command"][0] = "python3"
        self.kubectl("apply", "-n", self.namespace, "-f", "-", text=yaml.safe_dump_all(manifests))
        for deployment in deployments:
            name = f"deployment/{deployment['metadata']['name']}"
            self.kubectl("rollout", "status", "-n", self.namespace, name, "--timeout=180s")
        wait(lambda: self.colour() == "green", "a green page")
