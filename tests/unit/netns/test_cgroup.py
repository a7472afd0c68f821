"""Every form of path that container runtimes and cgroup drivers write."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tproxy.netns.cgroup import PodCgroup, parse_cgroup

UID = "2c48913c-b29f-11e7-9350-020968147796"
UID_ = UID.replace("-", "_")
HASH = "c6d5a5b3b5b1d3ecb0e1b1a8f1a4c0de"
ID = "9bca8d63d5fa610783847915bcff0ecac1273e5b4bed3f6fa1b07350e0135961"
OTHER = "0" * 64
FOUND = PodCgroup(UID, ID)

V2 = {
    "cgroupfs": (f"/kubepods/burstable/pod{UID}/{ID}", FOUND),
    "cgroupfs, guaranteed": (f"/kubepods/pod{UID}/{ID}", FOUND),
    "cgroupfs, under a root of its own": (f"/tproxy-lab-demo/node1/kubepods/besteffort/pod{UID}/{ID}", FOUND),
    "systemd, docker": (
        f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID_}.slice/docker-{ID}.scope",
        FOUND,
    ),
    "systemd, containerd": (
        f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UID_}.slice/cri-containerd-{ID}.scope",
        FOUND,
    ),
    "systemd, crio": (f"/kubepods.slice/kubepods-pod{UID_}.slice/crio-{ID}.scope", FOUND),
    "systemd, crio, cgroup made inside": (
        f"/kubepods.slice/kubepods-pod{UID_}.slice/crio-{ID}.scope/container",
        FOUND,
    ),
    "systemd, crio, without a scope": (f"/kubepods.slice/kubepods-pod{UID_}.slice/crio-{ID}", FOUND),
    "systemd, crio's monitor": (f"/kubepods.slice/kubepods-pod{UID_}.slice/crio-conmon-{ID}.scope", FOUND),
    "containerd with systemd's names": (
        f"/system.slice/containerd.service/kubepods-besteffort-pod{UID_}.slice:cri-containerd:{ID}",
        FOUND,
    ),
    "containerd with systemd's names at the top": (f"/kubepods-pod{UID_}.slice:cri-containerd:{ID}", FOUND),
    "kind": (
        f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{UID_}.slice/cri-containerd-{ID}.scope",
        FOUND,
    ),
    "nested in docker": (f"/docker/{OTHER}/kubepods/besteffort/pod{UID}/{ID}", FOUND),
    "docker inside the pod": (f"/kubepods/pod{UID}/{ID}/docker/{OTHER}", FOUND),
    "systemd inside the pod": (f"/kubepods/pod{UID}/{ID}/system.slice/sshd.service", FOUND),
    "a pod inside the pod": (
        f"/kubepods/pod{'0' * 8}-0000-0000-0000-{'0' * 12}/{OTHER}/kubepods/pod{UID}/{ID}",
        FOUND,
    ),
    "seen from another cgroup namespace": (f"/../../pod{UID}/{ID}", FOUND),
    "systemd, seen from another cgroup namespace": (
        f"/../../kubepods-burstable-pod{UID_}.slice/cri-containerd-{ID}.scope",
        FOUND,
    ),
    "a neighbour in our own pod": (f"/../crio-{ID}.scope", PodCgroup("", ID)),
    "docker without a pod": (f"/docker/{ID}", PodCgroup("", ID)),
    "the pod itself": (f"/kubepods/burstable/pod{UID}", PodCgroup(UID, "")),
    "static pod": (f"/kubepods/burstable/pod{HASH}/{ID}", PodCgroup(HASH, ID)),
    "static pod, systemd": (
        f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{HASH}.slice/cri-containerd-{ID}.scope",
        PodCgroup(HASH, ID),
    ),
    "root": ("/", None),
    "a service": ("/system.slice/containerd.service", None),
    "a user's session": ("/user.slice/user-1000.slice/session-1.scope", None),
    "podman": ("/machine.slice/libpod_parent/pod-web", None),
    "a slice that only sounds like it": (f"/tripod{UID}.slice/x", None),
    "too short for a UID": ("/kubepods/pod2c48913c/x", None),
}


@pytest.mark.parametrize(("path", "expected"), V2.values(), ids=V2)
def test_version_2(path: str, expected: PodCgroup | None) -> None:
    assert parse_cgroup(f"0::{path}\n") == expected


@pytest.mark.parametrize(("path", "expected"), V2.values(), ids=V2)
def test_version_1_and_hybrid(path: str, expected: PodCgroup | None) -> None:
    lines = [f"12:cpu,cpuacct:{path}", f"11:name=systemd:{path}", "10:misc:/", "0::/system.slice/containerd.service"]
    assert parse_cgroup("\n".join(lines) + "\n") == expected


def test_version_1_lines_that_say_less() -> None:
    """Some hierarchies end at the pod."""
    text = f"3:memory:/kubepods/pod{UID}/{ID}\n2:cpu:/kubepods/pod{UID}\n1:name=systemd:/kubepods/pod{UID}/{ID}\n"
    assert parse_cgroup(text) == FOUND


@pytest.mark.parametrize(
    "other",
    [f"/kubepods/pod{UID[:-1]}0/{ID}", f"/kubepods/pod{UID}/{OTHER}", f"/docker/{OTHER}"],
    ids=["another pod", "another container", "a container of no pod"],
)
def test_version_1_lines_that_contradict_each_other(other: str) -> None:
    assert parse_cgroup(f"3:memory:/kubepods/pod{UID}/{ID}\n2:cpu:{other}\n") is None


@given(st.text())
def test_anything_at_all(text: str) -> None:
    found = parse_cgroup(text)
    assert found is None or found.pod or found.container


@given(
    st.uuids(), st.sampled_from(["", "burstable", "besteffort"]), st.text("0123456789abcdef", min_size=64, max_size=64)
)
def test_any_pod(uid: object, quality: str, container: str) -> None:
    expected = PodCgroup(str(uid), container)
    plain = "/".join(part for part in ("", "kubepods", quality, f"pod{uid}", container) if part or not quality)
    systemd = "-".join(part for part in ("kubepods", quality, f"pod{str(uid).replace('-', '_')}") if part)
    assert parse_cgroup(f"0::{plain}\n") == expected
    assert parse_cgroup(f"0::/kubepods.slice/{systemd}.slice/cri-containerd-{container}.scope\n") == expected
