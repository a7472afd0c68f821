"""Where pods are: their network namespaces, found and found again. Everything here blocks: call it in a thread."""

import ipaddress
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tproxy.model.pod import Pod
from tproxy.netns.addresses import addresses_of
from tproxy.netns.discovery import Discovery, WantedPod
from tproxy.netns.handle import Netns
from tproxy.netns.pod_cgroups import find_cgroups
from tproxy.netns.refusal import Refusal
from tproxy.netns.rooted import read_in_root

MOVED = "the pod has another network by now"


@dataclass(frozen=True, slots=True)
class Place:
    """A namespace that a pod was found in, and the pod as it was then. The namespace is whoever's got the place.

    `cgroup` is the directory of the pod's cgroup, None if there is none of version 2 within sight.
    """

    pod: Pod
    netns: Netns
    cgroup: Path | None = None


class Places:
    """Finds pods on the node whose processes `proc_root` shows."""

    def __init__(self, proc_root: Path) -> None:
        self._discovery = Discovery(proc_root)

    def find(self, pods: Iterable[Pod]) -> Mapping[str, Place | Refusal]:
        """By pod UID. One pass over all processes, however many pods. Raises OSError."""
        by_uid = {pod.uid: pod for pod in pods}
        found = self._discovery.find(_wanted(pod) for pod in by_uid.values())
        cgroups = find_cgroups([name for pod in by_uid.values() for name in (pod.uid, pod.config_hash)])
        return {
            uid: answer if isinstance(answer, Refusal) else Place(pod, answer, _either(cgroups, pod))
            for uid, answer in found.items()
            for pod in [by_uid[uid]]
        }

    def read(self, place: Place, path: str, limit: int) -> bytes:
        """The first `limit` bytes of a file as the pod's processes see it. Raises OSError if none of them has it."""
        failure: OSError = FileNotFoundError("the pod has no process to read it of")
        for root in self._discovery.roots(_wanted(place.pod), place.netns.id):
            try:
                return read_in_root(root, path, limit)
            except OSError as error:
                failure = error
            finally:
                os.close(root)
        raise failure

    def moved(self, places: Sequence[Place]) -> set[str]:
        """UIDs of pods whose namespace no longer holds the address they had. Cheap."""
        return {place.pod.uid for place in places if not _holds(place)}

    def elsewhere(self, places: Sequence[Place], pods: Iterable[Pod]) -> set[str]:
        """UIDs of those of `pods` that a new pass finds in another namespace than in `places`. Raises OSError.

        A pod that is not found at all may just be starting its containers anew: that alone means nothing.
        """
        known = {place.pod.uid: place.netns.id for place in places}
        different = set()
        for uid, answer in self.find(pods).items():
            if isinstance(answer, Place):
                if answer.netns.id != known[uid]:
                    different.add(uid)
                answer.netns.close()
        return different


def _wanted(pod: Pod) -> WantedPod:
    return WantedPod(pod.uid, pod.addresses, pod.config_hash, pod.container_ids)


def _either(cgroups: Mapping[str, Path], pod: Pod) -> Path | None:
    return cgroups.get(pod.uid) or cgroups.get(pod.config_hash)


def _holds(place: Place) -> bool:
    try:
        held = addresses_of(place.netns)
    except OSError:
        return True  # no descriptors left, or the like: nothing that speaks of the pod
    return not held.isdisjoint(map(ipaddress.ip_address, place.pod.addresses))
