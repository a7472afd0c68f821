"""A control plane of real Kubernetes on this machine's loopback: etcd, API server, controller manager; no nodes.

Its programs come from .ci/kubernetes, etcd from the system. What it writes is in one directory, and every process ends
with this one, however it ends.
"""

import secrets
import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
READY_SECONDS = 90.0
SERVICE_RANGE = "10.96.0.0/16"


def find_programs() -> Path:
    """$KUBEBUILDER_ASSETS, or the directory of .ci/kubernetes, which builds them if need be."""
    done = subprocess.run([ROOT / ".ci" / "kubernetes"], check=True, stdout=subprocess.PIPE, text=True)
    return Path(done.stdout.strip())


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listened on a moment ago."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class ControlPlane:
    """Runs as a context manager; in it `kubeconfig` is an administrator's, and `kubeconfig_of` anybody's."""

    def __init__(self, directory: Path, programs: Path) -> None:
        self.directory = directory
        self.programs = programs
        self.kubeconfig = directory / "admin.kubeconfig"
        self._token = secrets.token_hex(32)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._etcd_port, self._peer_port, self._port = free_ports(3)

    @property
    def url(self) -> str:
        """The API server's."""
        return f"https://127.0.0.1:{self._port}"

    def __enter__(self) -> "ControlPlane":
        try:
            self._prepare()
            self._start_etcd()
            self._start_api_server()
            self._start_controller_manager()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes.values()):
            # Nothing here is worth an orderly end, and the API server's would wait for watches.
            process.kill()
            process.wait()
        self._processes.clear()

    def kubectl(self, *arguments: str, stdin: str = "", user: str = "") -> "subprocess.CompletedProcess[str]":
        """Run kubectl, as `user` if given. Never raises on its exit code."""
        who = [f"--as={user}", "--as-group=system:authenticated"] if user else []
        command = [self.programs / "kubectl", f"--kubeconfig={self.kubeconfig}", *who, *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60)

    def kubeconfig_of(self, user: str, *groups: str) -> Path:
        """A kubeconfig of somebody who is impersonated."""
        path = self.directory / f"{user.replace(':', '-')}.kubeconfig"
        who = {"as": user, "as-groups": [*groups, "system:authenticated"]}
        self._write_kubeconfig(path, {"token": self._token, **who})
        return path

    def wait(self, what: str, *arguments: str, until: str) -> None:
        """Wait until kubectl with these arguments prints `until`."""
        deadline = time.monotonic() + READY_SECONDS
        while (said := self.kubectl(*arguments)).stdout.strip() != until:
            assert time.monotonic() < deadline, f"{what}: {said.stdout} {said.stderr}"
            time.sleep(0.2)

    def _prepare(self) -> None:
        tokens = self.directory / "tokens.csv"
        tokens.touch(0o600)
        tokens.write_text(f'{self._token},admin,admin,"system:masters"\n')
        key = self.directory / "service-accounts.key"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)

    def _start_etcd(self) -> None:
        etcd = shutil.which("etcd", path=f"{self.programs}:/usr/bin:/usr/local/bin")
        assert etcd is not None, "etcd is not installed: apt-get install etcd-server"
        client, peer = (f"http://127.0.0.1:{port}" for port in (self._etcd_port, self._peer_port))
        self._run(
            "etcd",
            [
                etcd,
                f"--data-dir={self.directory / 'etcd'}",
                "--unsafe-no-fsync",
                f"--listen-client-urls={client}",
                f"--advertise-client-urls={client}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=default={peer}",
            ],
        )

    def _start_api_server(self) -> None:
        key, certificates = self.directory / "service-accounts.key", self.directory / "certificates"
        self._run(
            "kube-apiserver",
            [
                str(self.programs / "kube-apiserver"),
                f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
                "--bind-address=127.0.0.1",
                f"--secure-port={self._port}",
                f"--cert-dir={certificates}",
                f"--token-auth-file={self.directory / 'tokens.csv'}",
                "--authorization-mode=Node,RBAC",
                "--enable-admission-plugins=NodeRestriction,OwnerReferencesPermissionEnforcement",
                "--allow-privileged=true",
                f"--service-account-key-file={key}",
                f"--service-account-signing-key-file={key}",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-cluster-ip-range={SERVICE_RANGE}",
            ],
        )
        self._wait_ready(certificates / "apiserver.crt")
        self._write_kubeconfig(self.kubeconfig, {"token": self._token})

    def _start_controller_manager(self) -> None:
        self._run(
            "kube-controller-manager",
            [
                str(self.programs / "kube-controller-manager"),
                f"--kubeconfig={self.kubeconfig}",
                "--leader-elect=false",
                "--secure-port=0",
                f"--service-account-private-key-file={self.directory / 'service-accounts.key'}",
            ],
        )

    def _run(self, name: str, command: Sequence[str]) -> None:
        with (self.directory / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                ["/usr/bin/setpriv", "--pdeathsig", "KILL", *command], stdout=log, stderr=log, cwd=self.directory
            )

    def _wait_ready(self, authority: Path) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while True:
            for name, process in self._processes.items():
                assert process.poll() is None, f"{name} has ended: {self._last_words(name)}"
            assert time.monotonic() < deadline, f"not ready: {self._last_words('kube-apiserver')}"
            try:
                context = ssl.create_default_context(cafile=str(authority))
                request = urllib.request.Request(
                    f"{self.url}/readyz", headers={"Authorization": f"Bearer {self._token}"}
                )
                with urllib.request.urlopen(request, timeout=5, context=context):
                    return
            except (OSError, urllib.error.URLError):
                time.sleep(0.1)

    def _last_words(self, name: str) -> str:
        return "\n".join((self.directory / f"{name}.log").read_text(errors="replace").splitlines()[-8:])

    def _write_kubeconfig(self, path: Path, user: Mapping[str, Any]) -> None:
        cluster = {
            "server": self.url,
            "certificate-authority": str(self.directory / "certificates" / "apiserver.crt"),
        }
        path.touch(0o600)
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "real", "cluster": cluster}],
                    "users": [{"name": "somebody", "user": dict(user)}],
                    "contexts": [
                        {"name": "real", "context": {"cluster": "real", "user": "somebody", "namespace": "shop"}}
                    ],
                    "current-context": "real",
                }
            )
        )
