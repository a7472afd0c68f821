"""Which pods are left alone."""

import pytest

from tproxy.netns.refusal import refusal


@pytest.mark.parametrize("runtime_class", ["", "runc", "nvidia", "crun", "youki"])
def test_ordinary_pods_are_not_refused(runtime_class: str) -> None:
    assert refusal(False, runtime_class) is None


def test_host_network() -> None:
    found = refusal(True, "")
    assert found is not None
    assert found.reason == "HostNetwork"


@pytest.mark.parametrize(
    ("runtime_class", "name"),
    [
        ("gvisor", "gVisor"),
        ("runsc", "gVisor"),
        ("runsc-kvm", "gVisor"),
        ("kata", "Kata Containers"),
        ("kata-qemu", "Kata Containers"),
        ("Kata-Containers", "Kata Containers"),
    ],
)
def test_sandboxes(runtime_class: str, name: str) -> None:
    found = refusal(False, runtime_class)
    assert found is not None
    assert found.reason == "SandboxedRuntime"
    assert runtime_class in found.message
    assert name in found.message
