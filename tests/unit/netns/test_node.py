"""Where the node's own network namespace is found."""

from pathlib import Path

import pytest

from tproxy.netns import node
from tproxy.netns.handle import Netns


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /proc in which process 1 may not be looked at, and process 2 is kthreadd."""

    def open_(path: Path) -> str:
        if path == tmp_path / "1" / "ns" / "net":
            raise PermissionError
        return str(path)

    monkeypatch.setattr(Netns, "open", open_)
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "comm").write_text("kthreadd\n")
    return tmp_path


def test_where_process_1_may_not_be_looked_at_it_is_kthreadds(proc: Path) -> None:
    assert node.open_node_netns(proc) == str(proc / "2" / "ns" / "net")


def test_nobody_elses_is_taken_for_it(proc: Path) -> None:
    (proc / "2" / "comm").write_text("pause\n")
    with pytest.raises(PermissionError):
        node.open_node_netns(proc)
