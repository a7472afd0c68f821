"""From pods to their network namespaces.

A pod's processes are known by their cgroups and their namespaces by the processes; a namespace is the pod's only if
one of its interfaces holds the pod's address, which settles everything that cgroups leave open: processes visiting
another namespace, namespaces made inside a container, a network that the runtime has built anew.
"""

import contextlib
import ipaddress
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tproxy.netns.addresses import IPAddress, addresses_of
from tproxy.netns.handle import Netns, NetnsId
from tproxy.netns.processes import PodProcesses, ProcTree
from tproxy.netns.refusal import Refusal


@dataclass(frozen=True, slots=True)
class WantedPod:
    """What is known of a pod from the Kubernetes API.

    `config_hash` is the annotation `kubernetes.io/config.hash`, by which a static pod's cgroup calls it; `containers`
    are the ids in `status.containerStatuses`, without their scheme, for runtimes that show nothing else.
    """

    uid: str
    addresses: tuple[str, ...]
    config_hash: str = ""
    containers: tuple[str, ...] = ()


class Discovery:
    """Finds network namespaces on the node that `proc_root` is the proc file system of."""

    def __init__(
        self, proc_root: str | os.PathLike[str] = "/proc", named: Iterable[str | os.PathLike[str]] = ("/var/run/netns",)
    ) -> None:
        """`named` are directories of bind-mounted namespaces, for pods without any process left."""
        self._proc = ProcTree(proc_root)
        self._named = tuple(map(Path, named))

    def find(self, pods: Iterable[WantedPod]) -> dict[str, Netns | Refusal]:
        """By UID, an open namespace for the caller to close, or why there is none.

        One pass over the processes, however many pods. Raises OSError if the proc file system cannot be read.
        """
        wanted = {pod.uid: pod for pod in pods}
        names = {name: pod.uid for pod in wanted.values() for name in (pod.uid, pod.config_hash, *pod.containers)}
        names.pop("", None)
        ignored = self._node_netns() | {_own_netns()}
        processes = self._proc.pods(names, ignored)
        found: dict[str, Netns | Refusal] = {}
        try:
            for uid, pod in wanted.items():
                found[uid] = self._by_process(pod, processes.get(uid, PodProcesses()))
            missing = [pod for uid, pod in wanted.items() if isinstance(found[uid], Refusal)]
            if missing:
                found |= self._by_name(missing, ignored)
        except BaseException:
            for answer in found.values():
                if isinstance(answer, Netns):
                    answer.close()
            raise
        return found

    def roots(self, pod: WantedPod, netns: NetnsId) -> Iterator[int]:
        """The root directories of the pod's processes in `netns`, the oldest first, as descriptors to close.

        Raises OSError if the proc file system cannot be read.
        """
        names = dict.fromkeys((pod.uid, pod.config_hash, *pod.containers), pod.uid)
        names.pop("", None)
        found = self._proc.pods(names, frozenset()).get(pod.uid, PodProcesses())
        for process in sorted(found.by_netns.get(netns, ())):
            root = self._proc.open_root(process, netns)
            if root is not None:
                yield root

    def _node_netns(self) -> frozenset[NetnsId]:
        """The node's own namespace; empty if init may not be looked at. Then only the pods' addresses keep it out."""
        try:
            return frozenset({self._proc.netns_id("1")})
        except PermissionError:
            return frozenset()

    def _by_process(self, pod: WantedPod, processes: PodProcesses) -> Netns | Refusal:
        if not pod.addresses:
            return Refusal("NoAddress", "the pod has no address yet")
        for identity, members in processes.by_age():
            netns = self._proc.open_netns(members, identity)
            if netns is None:
                continue
            if _holds(netns, pod):
                return netns
            netns.close()
        return _why_not(pod, processes)

    def _by_name(self, pods: Iterable[WantedPod], ignored: frozenset[NetnsId]) -> dict[str, Netns]:
        """Those of `pods` whose address is in a named namespace."""
        by_address = {ipaddress.ip_address(address): pod.uid for pod in pods for address in pod.addresses}
        found: dict[str, Netns] = {}
        for path in _files_in(self._named):
            try:
                netns = Netns.open(path)
            except OSError:
                continue
            uids = set() if netns.id in ignored else {by_address[one] for one in _addresses(netns) & by_address.keys()}
            uid = uids.pop() if len(uids) == 1 else ""
            if uid and uid not in found:
                found[uid] = netns
            else:
                netns.close()
        return found


def _own_netns() -> NetnsId:
    with contextlib.closing(Netns.current()) as own:
        return own.id


def _holds(netns: Netns, pod: WantedPod) -> bool:
    return not _addresses(netns).isdisjoint(map(ipaddress.ip_address, pod.addresses))


def _addresses(netns: Netns) -> frozenset[IPAddress]:
    """Empty for what cannot be entered, such as a named file from which the namespace has gone."""
    try:
        return addresses_of(netns)
    except OSError:
        return frozenset()


def _files_in(directories: Iterable[Path]) -> Iterator[Path]:
    for directory in directories:
        try:
            yield from sorted(directory.iterdir())
        except OSError:
            continue  # most runtimes keep none


def _why_not(pod: WantedPod, processes: PodProcesses) -> Refusal:
    if processes.by_netns:
        return Refusal(
            "AddressNotFound",
            f"none of the pod's processes is in a network namespace that holds its address {pod.addresses[0]}",
        )
    if processes.denied:
        return Refusal(
            "NotPermitted",
            "the node daemon may not look at the namespaces of the pod's processes;"
            " it needs CAP_SYS_PTRACE and an unconfined AppArmor profile",
        )
    if processes.ignored:
        return Refusal("NodeNetwork", "the pod's processes use the network of the node or of the node daemon")
    return Refusal("NoProcess", "the pod has no running process on this node")
