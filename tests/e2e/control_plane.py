"""A control plane of real Kubernetes: etcd, API server, controller manager, and a scheduler where there are nodes.

It runs on this machine's loopback, or in a place of its own. Its programs come from .ci/kubernetes, etcd from the
system. What it writes is in one directory, and every process ends with this one, however it ends.
"""

import base64
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.place import Place, Process, require, start

ROOT = Path(__file__).parents[2]
READY_SECONDS = 90.0
SERVICE_RANGE = "10.96.0.0/16"
DEVELOPERS = ("dora", "eve")
"""Users who are known by tokens of their own; anybody else is impersonated."""


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
    """Runs as a context manager; in it `kubeconfig` is an administrator's, and `kubeconfig_of` anybody's.

    With a place it is there, at `address`, for nodes; without one on this machine's loopback.
    """

    def __init__(self, directory: Path, programs: Path, place: Place | None = None, address: str = "127.0.0.1") -> None:
        self.directory = directory
        self.programs = programs
        self._place = place
        self._address = address
        self.kubeconfig = directory / "admin.kubeconfig"
        self._token = secrets.token_hex(32)
        self._tokens = {user: secrets.token_hex(32) for user in DEVELOPERS}
        self._processes: dict[str, Process] = {}
        self._etcd_port, self._peer_port, self._port = free_ports(3)

    @property
    def url(self) -> str:
        """The API server's."""
        return f"https://{self._address}:{self._port}"

    def __enter__(self) -> "ControlPlane":
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start everything, and wait until it is ready."""
        self._prepare()
        self._start_etcd()
        self.start_api_server()
        self._start_controller_manager()
        if self._place is not None:
            self._start_scheduler()

    def close(self) -> None:
        """End everything."""
        for name in reversed(list(self._processes)):
            self.kill(name)

    def kill(self, name: str) -> None:
        """End a program. Nothing here is worth an orderly end, and the API server's would wait for watches."""
        self._processes.pop(name).kill()

    def kubectl(self, *arguments: str, stdin: str = "", user: str = "") -> "subprocess.CompletedProcess[str]":
        """Run kubectl, as `user` if given. Never raises on its exit code."""
        who = [f"--as={user}", "--as-group=system:authenticated"] if user else []
        command = self.inside(self.programs / "kubectl", f"--kubeconfig={self.kubeconfig}", *who, *arguments)
        return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=180)

    def inside(self, *command: str | Path) -> list[str]:
        """The command line that runs `command` where the API server can be reached."""
        return self._place.enter(*command) if self._place else list(map(str, command))

    def kubeconfig_of(self, user: str, *groups: str) -> Path:
        """A kubeconfig of somebody, who is impersonated unless it is a developer."""
        path = self.directory / f"{user.replace(':', '-')}.kubeconfig"
        impersonated = {"token": self._token, "as": user, "as-groups": [*groups, "system:authenticated"]}
        self._write_kubeconfig(path, {"token": self._tokens[user]} if user in self._tokens else impersonated)
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
        rows = [f'{self._token},admin,admin,"system:masters"']
        tokens.write_text(
            "\n".join([*rows, *(f"{token},{user},{user}" for user, token in self._tokens.items())]) + "\n"
        )
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

    def start_api_server(self) -> None:
        """Start it, also again after it was killed, and wait until it is ready."""
        key, certificates = self.directory / "service-accounts.key", self.directory / "certificates"
        self._run(
            "kube-apiserver",
            [
                str(self.programs / "kube-apiserver"),
                f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
                f"--bind-address={self._address}",
                f"--advertise-address={self._address}",
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
                # By their names nodes are not known here.
                "--kubelet-preferred-address-types=InternalIP",
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
                f"--root-ca-file={self.directory / 'certificates' / 'apiserver.crt'}",
            ],
        )

    def _start_scheduler(self) -> None:
        program = str(self.programs / "kube-scheduler")
        options = [f"--kubeconfig={self.kubeconfig}", "--leader-elect=false", "--secure-port=0"]
        self._run("kube-scheduler", [program, *options])

    def _run(self, name: str, command: Sequence[str]) -> None:
        self._processes[name] = start(self.inside(*command), self.directory / f"{name}.log", self._place is not None)

    def _wait_ready(self, authority: Path) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while True:
            require(list(self._processes.values()))
            assert time.monotonic() < deadline, f"not ready: {self._processes['kube-apiserver'].last_words}"
            asked = ["curl", "-sf", "--max-time", "5", "--cacert", authority, "-K", "-", f"{self.url}/readyz"]
            header = f'header = "Authorization: Bearer {self._token}"'
            done = subprocess.run(self.inside(*asked), input=header, text=True, capture_output=True, check=False)
            if done.returncode == 0:
                return
            time.sleep(0.1)

    def _write_kubeconfig(self, path: Path, user: Mapping[str, Any]) -> None:
        authority = self.directory / "certificates" / "apiserver.crt"
        cluster = {"server": self.url, "certificate-authority": str(authority)}
        if authority.exists():
            # With the certificate in it others can read it, to whom this directory is closed.
            cluster["certificate-authority-data"] = base64.b64encode(authority.read_bytes()).decode()
            del cluster["certificate-authority"]
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
