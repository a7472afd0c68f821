"""From `/proc/PID/cgroup` to the pod and the container that a process belongs to.

Every runtime and cgroup driver writes its own path; tests/unit/netns/test_cgroup.py lists them all. Pure.
"""

import re
from dataclasses import dataclass

# A UID is a UUID, whose hyphens systemd's unit names cannot carry, or a static pod's configuration hash.
_UID = r"[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32}"
# `pod<uid>`, `kubepods-burstable-pod<uid>.slice` or `kubepods-pod<uid>.slice:cri-containerd:<container>`.
_POD = re.compile(rf"(?:^|-)pod(?P<uid>{_UID})(?:\.slice)?(?::[^:]+:(?P<container>[0-9a-f]+))?$")
# `<container>`, `docker-<container>.scope`, `cri-containerd-<container>.scope`, `crio-<container>`.
_CONTAINER = re.compile(r"(?:^|-)(?P<container>[0-9a-f]{64})(?:\.scope)?$")


@dataclass(frozen=True, slots=True)
class PodCgroup:
    """What a process' cgroup says. Both are empty if unknown; `pod` has hyphens, as in the Kubernetes API."""

    pod: str
    container: str


def parse_cgroup(text: str) -> PodCgroup | None:
    """The pod and container of a process with this `/proc/PID/cgroup`; None if it is in none.

    Version 1 has a line for each hierarchy and not all need name the pod, but those that do must agree: if they don't,
    the process is somewhere we don't understand, and None as well.
    """
    found = {place for line in text.splitlines() if (place := _parse_path(line.split(":", 2)[-1]))}
    pods = {place.pod for place in found} - {""}
    containers = {place.container for place in found} - {""}
    if not found or len(pods) > 1 or len(containers) > 1:
        return None
    return PodCgroup("".join(pods), "".join(containers))


def _parse_path(path: str) -> PodCgroup | None:
    segments = path.split("/")
    # The innermost pod: a pod may run a whole cluster whose pods are inside its own cgroup.
    for index in reversed(range(len(segments))):
        if pod := _POD.search(segments[index]):
            uid = _with_hyphens(pod["uid"])
            if pod["container"]:
                return PodCgroup(uid, pod["container"])
            # The first container below it: what that one starts inside itself is still that one.
            return PodCgroup(uid, _first_container(segments[index + 1 :]))
    # Seen from inside a cgroup namespace, the containers of our own pod show without the pod: `/../crio-<id>.scope`.
    container = _first_container(segments)
    return PodCgroup("", container) if container else None


def _first_container(segments: list[str]) -> str:
    matches = (_CONTAINER.search(segment) for segment in segments)
    return next((match["container"] for match in matches if match), "")


def _with_hyphens(uid: str) -> str:
    return uid.replace("_", "-")
