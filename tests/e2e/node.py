"""A node: containerd, kubelet and kube-proxy in a place of their own, with the bridge plugin for pods' networks."""

import json
import signal
import time
from pathlib import Path

import yaml

from tests.e2e.network import ALL_PODS, DNS, NODES, PODS
from tests.e2e.place import Place, Process, require

READY_SECONDS = 120.0
PAUSE = "localhost/pause:1"
_PLUGINS = "/usr/lib/cni"
_SOCKET = "/run/containerd/containerd.sock"

# Everything that a node writes goes into memory, and ends with its mounts.
_MOUNTS = """
mount --make-rshared /
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/netns /run/lock
for directory in /var/lib/kubelet /var/lib/containerd /var/log/pods /var/log/containers /var/lib/cni /etc/cni \\
        /opt/cni; do
    mkdir -p "$directory"
    mount -t tmpfs -o mode=755 tmpfs "$directory"
done
mount --make-rshared /run
mount --make-rshared /var/lib/kubelet
mkdir -p /etc/cni/net.d /opt/cni/bin
cp "$1"/* /opt/cni/bin/
"""

_CONTAINERD = f"""
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
"""


class Node:
    """One node. `start_runtime`, `load` and `start` in this order; nothing of it waits but what says so."""

    def __init__(self, place: Place, directory: Path, programs: Path, kubeconfig: Path, cgroup: str) -> None:
        self.place = place
        self.name = place.name
        self._directory = directory
        self._programs = programs
        self._kubeconfig = kubeconfig
        self._cgroup = cgroup
        self._processes: dict[str, Process] = {}

    @property
    def kubelet(self) -> Process:
        """Its kubelet."""
        return self._processes["kubelet"]

    def start_runtime(self) -> None:
        """Mount what it writes to, and begin containerd."""
        self._directory.mkdir()
        self.place.shell(_MOUNTS, _PLUGINS)
        bridge = {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "ipMasq": False,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": PODS[self.name]}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }
        plugins = [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}]
        network = json.dumps({"cniVersion": "0.4.0", "name": "bridge", "plugins": plugins})
        self.place.run("tee", "/etc/cni/net.d/10-bridge.conflist", text=network)
        self._run("containerd", "containerd", "--config", self._write("containerd.toml", _CONTAINERD))

    def load(self, images: Path) -> Process:
        """Begin to load an archive of images; the process ends when they are there."""
        deadline = time.monotonic() + READY_SECONDS
        while self.place.run("test", "-S", _SOCKET, check=False).returncode:
            require(list(self._processes.values()))
            assert time.monotonic() < deadline, self._processes["containerd"].last_words
            time.sleep(0.05)
        command = ["ctr", "--namespace", "k8s.io", "images", "import", "--all-platforms", images]
        return self.place.start(*command, log=self._directory / "import.log")

    def start(self) -> None:
        """Begin kubelet and kube-proxy."""
        resolv_conf = self._write("resolv.conf", "nameserver 127.0.0.1\n")
        kubelet = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": self._cgroup,
            "failSwapOn": False,
            "nodeStatusUpdateFrequency": "1s",
            "clusterDNS": [DNS],
            "clusterDomain": "cluster.local",
            "resolvConf": str(resolv_conf),
            # What is free on this machine is no matter of a node of its tests.
            "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "imageGCHighThresholdPercent": 99,
            "imageGCLowThresholdPercent": 98,
            "containerRuntimeEndpoint": f"unix://{_SOCKET}",
            "maxPods": 250,
            "registryPullQPS": 0,
            "serializeImagePulls": False,
        }
        self._run(
            "kubelet",
            self._programs / "kubelet",
            f"--kubeconfig={self._kubeconfig}",
            f"--config={self._write('kubelet.yaml', yaml.safe_dump(kubelet))}",
            f"--hostname-override={self.name}",
            f"--node-ip={NODES[self.name]}",
        )
        proxy = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": str(self._kubeconfig.with_name("kube-proxy.kubeconfig"))},
            "mode": "iptables",
            "clusterCIDR": ALL_PODS,
            "hostnameOverride": self.name,
            # A network namespace may not set these.
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }
        options = f"--config={self._write('kube-proxy.yaml', yaml.safe_dump(proxy))}"
        self._run("kube-proxy", self._programs / "kube-proxy", options)

    def stop_kubelet(self) -> None:
        """It does nothing any more, and is there."""
        self.kubelet.signal(signal.SIGSTOP)

    def continue_kubelet(self) -> None:
        """It goes on."""
        self.kubelet.signal(signal.SIGCONT)

    def require(self) -> None:
        """Raises AssertionError if one of its programs has ended."""
        require(list(self._processes.values()))

    def close(self) -> None:
        """End its programs; what they have started ends with the place."""
        for process in reversed(self._processes.values()):
            process.kill()

    def _run(self, name: str, *command: str | Path) -> None:
        self._processes[name] = self.place.start(*command, log=self._directory / f"{name}.log")

    def _write(self, name: str, text: str) -> Path:
        path = self._directory / name
        path.write_text(text)
        return path
