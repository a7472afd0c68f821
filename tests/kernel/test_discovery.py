"""Finding the namespaces of real processes in real cgroups."""

import contextlib
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.namespaces import POD_IP4, POD_IP6, PREFIX, Namespace, Namespaces, PodNetwork, run
from tproxy.lab import cgroup
from tproxy.netns.discovery import Discovery, WantedPod
from tproxy.netns.handle import Netns
from tproxy.netns.refusal import Refusal

ROOT = Path(__file__).parents[2]
CONTAINER = "c" * 64


class Kubelet:
    """Starts processes in cgroups named as a kubelet names them."""

    def __init__(self) -> None:
        self._root = cgroup.mount_point() / f"{PREFIX}{os.getpid():x}-{uuid.uuid4().hex[:8]}"
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, pod: str, place: Namespace | None, path: str = "kubepods/burstable/pod{}") -> int:
        """A process of `pod`, in the namespace `place` or in that of the node."""
        group = self._root / path.format(pod) / CONTAINER
        group.mkdir(parents=True, exist_ok=True)
        enter = ["nsenter", f"--net={place.path}"] if place else []
        script = f'echo $$ > {group}/cgroup.procs && exec "$@"'
        command = ["sh", "-ec", script, "sh", *enter, "sh", "-c", "echo started; exec sleep 600"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        self._processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        return process.pid

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()
        if self._root.exists():
            cgroup.end(self._root)


@pytest.fixture
def kubelet() -> Iterator[Kubelet]:
    with contextlib.closing(Kubelet()) as kubelet:
        yield kubelet


def pod_uid() -> str:
    return str(uuid.uuid4())


def find(pod: WantedPod, discovery: Discovery | None = None) -> Netns | Refusal:
    return (discovery or Discovery(named=())).find([pod])[pod.uid]


def found(pod: WantedPod, expected: Namespace, discovery: Discovery | None = None) -> bool:
    netns = find(pod, discovery)
    assert isinstance(netns, Netns), netns
    with contextlib.closing(netns):
        return netns.id == expected.netns.id


def reason(pod: WantedPod, discovery: Discovery | None = None) -> str:
    refusal = find(pod, discovery)
    assert isinstance(refusal, Refusal)
    return refusal.reason


@pytest.mark.parametrize("address", [POD_IP4, POD_IP6])
def test_by_process_and_address(network: PodNetwork, kubelet: Kubelet, address: str) -> None:
    uid = pod_uid()
    kubelet.start(uid, network.pod)
    assert found(WantedPod(uid, (address,)), network.pod)


def test_static_pod(network: PodNetwork, kubelet: Kubelet) -> None:
    """The API's UID is that of the mirror; the cgroup carries the hash of the configuration."""
    config_hash = uuid.uuid4().hex
    kubelet.start(config_hash, network.pod)
    assert found(WantedPod(pod_uid(), (POD_IP4,), config_hash=config_hash), network.pod)


def test_by_container(network: PodNetwork, kubelet: Kubelet) -> None:
    kubelet.start("", network.pod, "somewhere")
    assert found(WantedPod(pod_uid(), (POD_IP4,), containers=(CONTAINER,)), network.pod)


def test_who_only_visits_is_not_at_home(namespaces: Namespaces, kubelet: Kubelet) -> None:
    """A process of the pod that is older, but in a namespace without the pod's address."""
    uid = pod_uid()
    network, elsewhere = namespaces.make_pod(), namespaces.make("elsewhere")
    kubelet.start(uid, elsewhere)
    kubelet.start(uid, None)
    kubelet.start(uid, network.pod)
    assert found(WantedPod(uid, (POD_IP4,)), network.pod)


def test_the_oldest_of_two_that_hold_the_address(namespaces: Namespaces, kubelet: Kubelet) -> None:
    uid = pod_uid()
    older, newer = namespaces.make_pod(), namespaces.make_pod()
    pid = kubelet.start(uid, older.pod)
    _wait_for_another_clock_tick(pid)
    kubelet.start(uid, newer.pod)
    assert found(WantedPod(uid, (POD_IP4,)), older.pod)


def _wait_for_another_clock_tick(pid: int) -> None:
    started = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    while time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK") < started + 2:
        pass


def test_another_pods_address_does_not_help(network: PodNetwork, kubelet: Kubelet) -> None:
    uid = pod_uid()
    kubelet.start(uid, network.pod)
    assert reason(WantedPod(uid, ("10.77.9.9",))) == "AddressNotFound"
    assert reason(WantedPod(uid, ())) == "NoAddress"


def test_only_in_the_network_of_the_node(kubelet: Kubelet) -> None:
    uid = pod_uid()
    kubelet.start(uid, None)
    assert reason(WantedPod(uid, ("127.0.0.1",))) == "NodeNetwork"


def test_named_namespaces_when_no_process_is_left(network: PodNetwork, tmp_path: Path) -> None:
    """As CRI-O does it without an infra container."""
    pod = WantedPod(pod_uid(), (POD_IP4,))
    assert reason(pod) == "NoProcess"
    (tmp_path / "stale").touch()  # a name whose namespace has gone
    (tmp_path / "ours").symlink_to("/proc/self/ns/net")
    (tmp_path / "cni-1").symlink_to(network.outside.path)
    (tmp_path / "cni-2").symlink_to(network.pod.path)
    (tmp_path / "cni-3").symlink_to(network.pod.path)
    assert found(pod, network.pod, Discovery(named=(tmp_path / "missing", tmp_path)))
    assert reason(WantedPod(pod_uid(), ("127.0.0.1",)), Discovery(named=(tmp_path / "missing",))) == "NoProcess"


def test_without_the_right_to_look(network: PodNetwork, kubelet: Kubelet) -> None:
    uid = pod_uid()
    kubelet.start(uid, network.pod)
    script = (
        "import sys; from tproxy.netns.discovery import Discovery, WantedPod;"
        "print(Discovery(named=()).find([WantedPod(sys.argv[1], (sys.argv[2],))])[sys.argv[1]].reason)"
    )
    command = ["setpriv", "--bounding-set=-sys_ptrace", sys.executable, "-c", script, uid, POD_IP4]
    assert run(*command) == "NotPermitted\n"


def test_many_pods_at_once(namespaces: Namespaces, tmp_path: Path) -> None:
    """200 pods of five processes, on a node with 500 more: well under a second, and no descriptor is lost."""
    pods = [WantedPod(pod_uid(), (f"10.78.{number // 100}.{number % 100 + 1}",)) for number in range(200)]
    homes = [namespaces.make("pods") for _ in range(20)]
    for number, pod in enumerate(pods):
        run("ip", "-n", homes[number % 20].name, "address", "add", f"{pod.addresses[0]}/32", "dev", "lo")
    _process(tmp_path, 1, "/init.scope", Path("/proc/1/ns/net"))
    for number in range(500):
        _process(tmp_path, 2 + number, "/system.slice/some.service", Path("/proc/1/ns/net"))
    for number, pod in enumerate(pods):
        for process in range(5):
            group = f"/kubepods/burstable/pod{pod.uid}/{process:064x}"
            _process(tmp_path, 1000 + 5 * number + process, group, Path(homes[number % 20].path))

    before = len(list(Path("/proc/self/fd").iterdir()))
    began = time.process_time()
    answers = Discovery(tmp_path, named=()).find(pods)
    took = time.process_time() - began  # not of the clock, which counts what others do on this machine too
    namespaces_found = [answer for answer in answers.values() if isinstance(answer, Netns)]
    assert len(namespaces_found) == len(pods)
    assert [netns.id for netns in namespaces_found] == [home.netns.id for home in homes] * 10
    for netns in namespaces_found:
        netns.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert took < 1


def _process(root: Path, pid: int, group: str, netns: Path) -> None:
    directory = root / str(pid)
    (directory / "ns").mkdir(parents=True)
    (directory / "ns" / "net").symlink_to(netns)
    (directory / "cgroup").write_text(f"0::{group}\n")
    (directory / "stat").write_text(f"{pid} (app) S {' '.join(map(str, range(4, 22)))} {pid} 23\n")
