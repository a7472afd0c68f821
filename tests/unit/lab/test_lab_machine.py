"""What the lab needs of a machine, and what it says when that is missing."""

import os
from pathlib import Path

import pytest

from tproxy.errors import InvalidError, TproxyError
from tproxy.lab import cgroup, launch, machine
from tproxy.lab.layout import Layout


def tools(directory: Path, *names: str) -> str:
    for name in names:
        (directory / name).touch(mode=0o755)
    return str(directory)


def test_missing_tools_are_named_with_their_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "PATH", tools(tmp_path, "nsenter", "unshare", "mount"))
    with pytest.raises(TproxyError) as failure:
        machine.check()
    assert failure.value.message == "not installed: ip, nft"
    assert failure.value.hint == "`apt-get install iproute2 nftables`"
    tools(tmp_path, "ip", "nft")
    machine.check()


def test_without_cgroup2_the_command_that_mounts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda path: "25 1 0:22 / /sys/fs/cgroup rw - cgroup cgroup rw,cpu\n")
    with pytest.raises(TproxyError, match="no cgroup2") as failure:
        cgroup.mount_point.__wrapped__()
    assert "mount -t cgroup2" in failure.value.hint


@pytest.mark.parametrize("nodes", [0, 10])
def test_a_number_of_nodes_that_cannot_be(nodes: int) -> None:
    with pytest.raises(InvalidError, match="1 to 9 nodes"):
        launch.up(Layout("unit-test"), nodes, (), print)
    assert not Layout("unit-test").state.exists()


def test_who_is_not_root_gets_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(TproxyError) as failure:
        machine.require_root("up")
    assert failure.value.message == "`tproxy lab up` needs root"
    assert failure.value.hint.startswith("`sudo /")
