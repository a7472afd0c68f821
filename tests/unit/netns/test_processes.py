"""Reading a proc file system, a made-up one."""

import os
from pathlib import Path

import pytest

from tproxy.netns.handle import NetnsId
from tproxy.netns.processes import PodProcesses, Process, ProcTree

ID = "a" * 64


class Tree:
    """Any file serves as a namespace: it has an identity of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root / "proc"
        self._namespaces = root / "namespaces"
        self.root.mkdir()
        self._namespaces.mkdir()

    def netns(self, name: str) -> Path:
        path = self._namespaces / name
        path.touch()
        return path

    def identity(self, name: str) -> NetnsId:
        status = self.netns(name).stat()
        return NetnsId(status.st_dev, status.st_ino)

    def process(self, pid: int, cgroup: str, netns: str, start: int = 0, command: str = "app") -> None:
        directory = self.root / str(pid)
        (directory / "ns").mkdir(parents=True)
        (directory / "ns" / "net").symlink_to(self.netns(netns))
        (directory / "cgroup").write_bytes(os.fsencode(f"0::{cgroup}\n"))
        before = " ".join(["S", *map(str, range(4, 22))])
        (directory / "stat").write_bytes(os.fsencode(f"{pid} ({command}) {before} {start} 23 24\n"))


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tree = Tree(tmp_path)
    tree.process(1, "/init.scope", "node")
    (tree.root / "self").symlink_to("1")
    (tree.root / "uptime").write_text("1 1\n")
    return tree


def uid(number: int) -> str:
    return f"00000000-0000-0000-0000-{number:012}"


def pods(tree: Tree, *wanted: int) -> dict[str, PodProcesses]:
    names = {uid(number): f"pod-{number}" for number in wanted}
    return ProcTree(tree.root).pods(names, frozenset({tree.identity("node")}))


def test_only_wanted_pods(tree: Tree) -> None:
    for number in (1, 2, 3):
        tree.process(10 * number, f"/kubepods/pod{uid(number)}/{ID}", f"net-{number}", start=number)
    assert pods(tree, 1, 3, 4) == {
        f"pod-{number}": PodProcesses({tree.identity(f"net-{number}"): [Process(number, 10 * number)]})
        for number in (1, 3)
    }


def test_by_container(tree: Tree) -> None:
    tree.process(10, f"/../crio-{ID}.scope", "net")
    assert list(ProcTree(tree.root).pods({ID: "pod"}, frozenset())) == ["pod"]


def test_the_node_network_is_only_counted(tree: Tree) -> None:
    """As conmon's, which is in the pod's cgroup."""
    tree.process(10, f"/kubepods/pod{uid(1)}/crio-conmon-{ID}", "node")
    tree.process(11, f"/kubepods/pod{uid(1)}/{ID}", "net", start=5)
    assert pods(tree, 1) == {"pod-1": PodProcesses({tree.identity("net"): [Process(5, 11)]}, ignored=1)}


def test_the_oldest_first(tree: Tree) -> None:
    """A visitor is younger than whoever lives in a namespace, and a command's name proves nothing."""
    tree.process(40, f"/kubepods/pod{uid(1)}/{ID}", "visited", start=900)
    tree.process(90, f"/kubepods/pod{uid(1)}/{ID}", "own", start=200, command="a) S 1 (b")
    tree.process(30, f"/kubepods/pod{uid(1)}/{ID}", "own", start=1000)
    assert pods(tree, 1)["pod-1"].by_age() == [
        (tree.identity("own"), [Process(200, 90), Process(1000, 30)]),
        (tree.identity("visited"), [Process(900, 40)]),
    ]


def test_names_may_be_any_bytes(tree: Tree) -> None:
    tree.process(10, f"/kubepods/pod{uid(1)}/{ID}/\udcff\u2028", "net", start=7, command="\udcff\n) S")
    tree.process(11, "/\udcff", "net")
    assert pods(tree, 1)["pod-1"].by_netns == {tree.identity("net"): [Process(7, 10)]}


@pytest.mark.parametrize("gone", ["cgroup", "ns/net", "stat"])
def test_processes_end_while_we_look(tree: Tree, gone: str) -> None:
    tree.process(10, f"/kubepods/pod{uid(1)}/{ID}", "net")
    tree.process(11, f"/kubepods/pod{uid(1)}/{ID}", "net", start=7)
    (tree.root / "10" / gone).unlink()
    assert pods(tree, 1)["pod-1"].by_netns == {tree.identity("net"): [Process(7, 11)]}


def test_opening_makes_sure(tree: Tree) -> None:
    """A process number may have been given to somebody else since."""
    tree.process(10, f"/kubepods/pod{uid(1)}/{ID}", "other")
    tree.process(11, f"/kubepods/pod{uid(1)}/{ID}", "net")
    proc = ProcTree(tree.root)
    netns = proc.open_netns([Process(0, 9), Process(0, 10), Process(0, 11)], tree.identity("net"))
    assert netns is not None
    assert netns.id == tree.identity("net")
    netns.close()
    assert proc.open_netns([Process(0, 9), Process(0, 10)], tree.identity("net")) is None
